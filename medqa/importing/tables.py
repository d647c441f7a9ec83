"""Tables as people have them: CSV in any of Excel's forms, TSV, JSON, JSON lines and parquet."""

import codecs
import csv
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medqa.runtime.errors import UserError
from medqa.sources import RawRow, foreign_formats, read_rows
from medqa.sources.text_buffer import TORN_GZIP

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EXCEL = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx (a zip archive) and .xls
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode text"
NO_TABLE = (b"<", b"%PDF", b"version https://git-lfs")
HEAD = 1 << 16  # bytes by which the kind of a file is recognised


@dataclass(frozen=True)
class Table:
    """The rows of a file, each a mapping by column or an error; and how the file was read, in words."""

    rows: list[RawRow]
    columns: list[str]
    format: str


def read(path: Path) -> Table:
    """The table in a file, whatever its name. Raises UserError for a file that holds none."""
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; name a file")
    data = _unpacked(path)
    if data.startswith(foreign_formats.PARQUET):
        rows, form = list(read_rows(path)), "parquet"
    elif data.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"[")):
        rows, form = list(read_rows(path)), "JSON"
    else:
        _refuse_other_files(path, data)
        text, encoding = _decoded(data)
        delimiter = _delimiter(text)
        rows, form = list(_csv_rows(path.name, text, delimiter)), f"{DELIMITERS[delimiter]}, {encoding}"
    columns = dict.fromkeys(key for raw in rows if isinstance(raw.row, dict) for key in raw.row)
    if not columns:
        raise UserError(f"{path} has no row under a line of column names")
    return Table(rows, list(columns), form)


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if data.startswith(foreign_formats.GZIP) else data
    except TORN_GZIP as error:
        raise UserError(f"{path} is no gzip file that can be read: {error}") from None


def _refuse_other_files(path: Path, data: bytes) -> None:
    if not data.strip():
        raise UserError(f"{path} is empty; it should hold a line of column names and rows")
    if data.startswith(EXCEL):
        raise UserError(f"{path} is an Excel workbook or a zip archive; in Excel save it as CSV UTF-8")
    if data.startswith(NO_TABLE) or (b"\0" in data[:HEAD] and not data.startswith(UTF16)):
        raise UserError(f"{path} {foreign_formats.describe_file(data[:HEAD]) or 'is no table'}")


def _decoded(data: bytes) -> tuple[str, str]:
    """The text and the name of its encoding: by its byte order mark, else UTF-8, else Windows-1252."""
    if data.startswith(UTF16):
        return data.decode("utf-16", "replace"), "UTF-16"
    try:
        return data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), "Windows-1252"


def _delimiter(text: str) -> str:
    """The delimiter that takes the first line apart into the most columns."""
    return max(DELIMITERS, key=lambda delimiter: len(next(_lines(text, delimiter), [])))


def _lines(text: str, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 30)  # characters; the default of 131,072 ends the whole file
    # Without newline="" a line break in quotes would change, and a file of the old Mac would be one line.
    return (line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(line))


def _csv_rows(name: str, text: str, delimiter: str) -> Iterator[RawRow]:
    lines = _lines(text, delimiter)
    columns = [column.strip() for column in next(lines, [])]
    for number, line in enumerate(lines, 2):
        if any(line[len(columns) :]):
            yield RawRow(name, number, delimiter.join(line), "more cells than columns")
        else:
            yield RawRow(name, number, dict(zip(columns, line, strict=False)))
