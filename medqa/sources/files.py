"""Raw rows out of files: JSON lines, JSON arrays or parquet, also gzipped, streamed.

Every row comes with its place in the file. What is torn costs the torn row, where another can be found behind
it.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medqa.runtime.errors import UserError
from medqa.sources import foreign_formats, json_arrays
from medqa.sources.json_arrays import BEGINNING, RawRow

_CHUNK = 1 << 20  # bytes read at once
_HEAD = 1 << 16  # bytes that tell what a file is
_TORN = (EOFError, gzip.BadGzipFile, zlib.error)


def read_rows(path: Path) -> Iterator[RawRow]:
    """The raw rows of a file, streamed, torn ones among them. Raises UserError if it is not there, empty, or
    holds no rows of JSON or parquet; it says what the file holds in their place.
    """
    if not path.is_file():
        what = "is a folder; name the file in it" if path.is_dir() else "is not there"
        raise UserError(
            f"{path} {what}; data.* in params.yaml names files relative to `corpus`, or absolute ones"
        )
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(foreign_formats.PARQUET):
        yield from _parquet(path)
        return
    packed = path.suffix == ".gz" or head.startswith(foreign_formats.GZIP)
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            while (head := file.read(64)).isspace():
                pass
            head += next(_data(file), (b"", ""))[0]  # not more than there is before a tear
            head = head[:_HEAD].removeprefix(codecs.BOM_UTF8).lstrip()
            if not head:
                raise UserError(f"{path} is empty; it should hold rows in UltraMedical's format")
            if what := foreign_formats.file(head):
                raise UserError(f"{path} {what}")
            file.seek(0)
            listed = head.startswith(b"[") or (
                head.startswith(b"{") and not json_arrays.by_lines(path, json_arrays.Text(_data(file)))
            )
            file.seek(0)
            yield from json_arrays.rows(path, json_arrays.Text(_data(file))) if listed else _lines(path, file)
    except _TORN as error:
        raise UserError(f"{path} is no gzip file that can be read: {error}") from None


def _lines(path: Path, file: Any) -> Iterator[RawRow]:
    number, rest = 0, b""
    for data, torn in _data(file):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                sources = _line(path, number, line)
                yield from sources
                number += max(len(sources), 1) - 1
        if torn:
            yield RawRow(path.name, number + 1, rest.decode("utf-8", "replace")[:BEGINNING], torn)
            return
    if rest.strip():
        yield from _line(path, number + 1, rest)


def _line(path: Path, number: int, line: bytes) -> list[RawRow]:
    """The rows of a line: one as a rule, more where it is a list or strings objects together."""
    try:
        text = line.decode("utf-8-sig")
        rows = [row for value in json_arrays.values(text) for row in json_arrays.rows_in(value)]
        return [json_arrays.raw_row(path, place, row, text) for place, row in enumerate(rows, number)]
    except UnicodeDecodeError:
        return [RawRow(path.name, number, line.decode("utf-8", "replace")[:BEGINNING], "invalid UTF-8")]
    except (ValueError, RecursionError):
        return [RawRow(path.name, number, text[:BEGINNING], "torn JSON")]


def _data(file: Any) -> Iterator[tuple[bytes, str]]:
    """A file in pieces; of a torn gzip file what comes before the tear, and last the reason why there is no
    more.
    """
    while True:
        try:
            data = file.read1(_CHUNK)
        except _TORN:
            yield b"", "torn gzip"
            return
        if not data:
            return
        yield data, ""


def _parquet(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        for batch in ParquetFile(path).iter_batches(batch_size=1000):
            for row in _listed(batch):
                number += 1
                yield RawRow(path.name, number, row, "" if row is not None else "invalid UTF-8")
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is no parquet file that can be read: {error}") from None


def _listed(batch: Any) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one with a text that is no UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) == 1:
            return [None]
        half = len(batch) // 2
        return _listed(batch.slice(0, half)) + _listed(batch.slice(half))
