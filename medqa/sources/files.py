"""Raw rows out of files: JSON lines, JSON arrays or parquet, also gzipped, streamed.

Every row comes with its location. A torn row costs itself, where another row can be found behind it.
"""

import codecs
import gzip
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.runtime.errors import UserError
from medqa.sources import foreign_formats, json_arrays
from medqa.sources.raw_row import INVALID_UTF8, TORN_JSON, RawRow, excerpt, from_value, rows_in
from medqa.sources.text_buffer import TORN_GZIP, ByteFile, FileChunks, TextBuffer

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_HEAD = 1 << 16  # bytes by which the kind of a file is recognised


def read_rows(path: Path, chunk_bytes: int = 1 << 20) -> Iterator[RawRow]:
    """The raw rows of a file, streamed, torn ones among them. `chunk_bytes` are read at once.

    Raises UserError if the file is missing or empty, or holds something else, which the message then names.
    """
    if not path.is_file():
        problem = "is a folder; name the file in it" if path.is_dir() else "is not there"
        raise UserError(
            f"{path} {problem}; data.* in params.yaml names files relative to `corpus`, or absolute ones"
        )
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == foreign_formats.PARQUET:
        yield from _parquet_rows(path)
        return
    is_gzip = path.suffix == ".gz" or magic.startswith(foreign_formats.GZIP)
    try:
        with gzip.open(path, "rb") if is_gzip else open(path, "rb") as file:
            yield from _json_rows(path, file, chunk_bytes)
    except TORN_GZIP as error:
        raise UserError(f"{path} is no gzip file that can be read: {error}") from None


def _json_rows(path: Path, file: ByteFile, chunk_bytes: int) -> Iterator[RawRow]:
    head = _head(file, chunk_bytes)
    if not head:
        raise UserError(f"{path} is empty; it should hold rows in UltraMedical's format")
    if problem := foreign_formats.describe_file(head):
        raise UserError(f"{path} {problem}")

    def chunks() -> FileChunks:
        file.seek(0)
        return FileChunks(file, chunk_bytes)

    # An object may be the first line of many, or JSON over several lines.
    if head.startswith(b"[") or (
        head.startswith(b"{")
        and not json_arrays.is_json_lines(path, TextBuffer(chunks()), max_chars=64 * chunk_bytes)
    ):
        yield from json_arrays.read_rows(path, TextBuffer(chunks()))
    else:
        yield from _line_rows(path.name, chunks())


def _head(file: ByteFile, chunk_bytes: int) -> bytes:
    """The first bytes of a file that are not blank; of a torn gzip file, what comes before the tear."""
    while (head := file.read(64)).isspace():
        pass
    head += next(FileChunks(file, chunk_bytes), b"")
    return head[:_HEAD].removeprefix(codecs.BOM_UTF8).lstrip()


def _line_rows(name: str, chunks: FileChunks) -> Iterator[RawRow]:
    number, rest = 0, b""
    for data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield from (rows := _rows_of_line(name, number, line))
                number += max(len(rows), 1) - 1
    if chunks.error:
        yield RawRow(name, number + 1, excerpt(rest.decode("utf-8", "replace")), chunks.error)
    elif rest.strip():
        yield from _rows_of_line(name, number + 1, rest)


def _rows_of_line(name: str, number: int, line: bytes) -> list[RawRow]:
    """The rows of a line: usually one, more where it holds a list or several objects."""
    try:
        text = line.decode("utf-8-sig")
        rows = [row for value in json_arrays.read_values(text) for row in rows_in(value)]
        return [from_value(name, line_number, row, text) for line_number, row in enumerate(rows, number)]
    except UnicodeDecodeError:
        return [RawRow(name, number, excerpt(line.decode("utf-8", "replace")), INVALID_UTF8)]
    except (ValueError, RecursionError):
        return [RawRow(name, number, excerpt(text), TORN_JSON)]


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        batches = ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate(chain.from_iterable(map(_rows_of_batch, batches)), 1):
            yield RawRow(path.name, number, row, "" if row is not None else INVALID_UTF8)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is no parquet file that can be read: {error}") from None


def _rows_of_batch(batch: "RecordBatch") -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one whose text is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) == 1:
            return [None]
        half = len(batch) // 2
        return _rows_of_batch(batch.slice(0, half)) + _rows_of_batch(batch.slice(half))
