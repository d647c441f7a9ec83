"""Raw rows out of files: JSON lines, JSON arrays or parquet, also gzipped, streamed.

Every row comes with its place in the file. What is torn costs the torn row, where another can be found behind it.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.params import UserError

_CHUNK = 1 << 20  # bytes read at once
_SPACE = re.compile(r"[\s,]*")
_BEGINNING = 200  # characters of a torn row that are kept to show
_TORN = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclass(frozen=True)
class Source:
    """One raw row and where it stands. Where it cannot be read, `row` is the beginning of its text, `torn` says why."""

    file: str
    line: int
    row: Any
    torn: str = ""


def read(path: Path) -> Iterator[Source]:
    """The raw rows of a file, streamed, torn ones among them. Raises UserError if it is not there, empty or not of its
    kind.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is not there; data.* in params.yaml names files relative to `corpus`, or absolute ones"
        )
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
            file.seek(0)
            if not head:
                raise UserError(f"{path} is empty; it should hold rows in UltraMedical's format")
            yield from _array(path, file) if head.startswith(b"[") else _lines(path, file)
    except _TORN as error:
        raise UserError(f"{path} is no gzip file that can be read: {error}") from None


def _lines(path: Path, file: Any) -> Iterator[Source]:
    number, rest = 0, b""
    for data, torn in _data(file):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield _line(path, number, line)
        if torn:
            yield Source(path.name, number + 1, rest.decode("utf-8", "replace")[:_BEGINNING], torn)
            return
    if rest.strip():
        yield _line(path, number + 1, rest)


def _line(path: Path, number: int, line: bytes) -> Source:
    try:
        text = line.decode("utf-8-sig")
        return _source(path, number, json.loads(text), text)
    except UnicodeDecodeError:
        return Source(path.name, number, line.decode("utf-8", "replace")[:_BEGINNING], "invalid UTF-8")
    except (ValueError, RecursionError):
        return Source(path.name, number, text[:_BEGINNING], "torn JSON")


def _array(path: Path, file: Any) -> Iterator[Source]:
    # One element at a time: the real file is larger than the memory that this stage may take.
    decode = json.JSONDecoder().raw_decode
    text = _Text(file)
    while "[" not in text.buffer:
        text.more()
    text.at = text.buffer.index("[") + 1
    element, number = None, 0
    while True:
        text.at = _SPACE.match(text.buffer, text.at).end()
        if text.at == len(text.buffer) and text.more():
            continue
        if text.buffer.startswith("]", text.at):
            return
        number += 1
        try:
            row, end = decode(text.buffer, text.at)
        except (ValueError, RecursionError) as error:
            if _unfinished(error, len(text.buffer)) and text.more():
                number -= 1
                continue
            element = element or _first_key(text.buffer, text.at)
            beginning = text.buffer[text.at : text.at + _BEGINNING].encode("utf-8", "replace").decode("utf-8")
            whole = text.skip_to(element)
            yield Source(path.name, number, beginning, "torn JSON" if whole else text.torn or "torn JSON")
            if not whole:
                return
            continue
        element = element or _first_key(text.buffer, text.at)
        yield _source(path, number, row, text.buffer[text.at : end])
        text.at = end


def _first_key(text: str, at: int) -> re.Pattern[str]:
    """What an element of an array begins with: its first key, which tells elements from objects nested in them."""
    key = re.compile(r'\{\s*("(?:[^"\\]|\\.)*")\s*:').match(text, at)
    return re.compile(r"\{\s*" + (re.escape(key[1]) + r"\s*:" if key else '"'))


class _Text:
    """The text of a file, of which only the part from `at` on is in memory."""

    def __init__(self, file: Any):
        self.chunks, self.buffer, self.at, self.torn = _data(file), "", 0, ""
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.more()

    def more(self) -> bool:
        """Read on; whether there was more. What is still needed is at least doubled, so that the work stays linear."""
        parts, wanted = [self.buffer[self.at :]], max(1, len(self.buffer) - self.at)
        self.at, before = 0, len(parts[0])
        while sum(map(len, parts)) < before + wanted:
            data, torn = next(self.chunks, (b"", self.torn))
            self.torn = torn
            if not data:
                break
            parts.append(self.decode(data))
        self.buffer = "".join(parts)
        return len(self.buffer) > before

    def skip_to(self, element: re.Pattern[str]) -> bool:
        """Go on to the next place where an element begins; whether there is one."""
        self.at += 1
        while not (found := element.search(self.buffer, self.at)):
            # An element's beginning may lie across the end of what was read.
            self.at = max(self.at, len(self.buffer) - _BEGINNING)
            if not self.more():
                return False
        self.at = found.start()
        return True


def _unfinished(error: Exception, length: int) -> bool:
    """Whether an element may be whole when more of the file is read: it goes wrong at the end, or within a string."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= length - 12  # the longest literal or escape


def _data(file: Any) -> Iterator[tuple[bytes, str]]:
    """A file in pieces; of a torn gzip file what comes before the tear, and last the reason why there is no more."""
    while True:
        try:
            data = file.read1(_CHUNK)
        except _TORN:
            yield b"", "torn gzip"
            return
        if not data:
            return
        yield data, ""


def _source(path: Path, number: int, row: Any, text: str) -> Source:
    try:
        # Bytes that are no UTF-8, or half a surrogate pair, could not be written again.
        text.encode("utf-8")
        if "\\ud" in text or "\\uD" in text:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return Source(path.name, number, text[:_BEGINNING].encode("utf-8", "replace").decode("utf-8"), "invalid UTF-8")
    return Source(path.name, number, row)


def _parquet(path: Path) -> Iterator[Source]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        for batch in ParquetFile(path).iter_batches(batch_size=1000):
            for row in _listed(batch):
                number += 1
                yield Source(path.name, number, row, "" if row is not None else "invalid UTF-8")
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
