"""The text of a file, of which only a part is in memory: JSON values are decoded from it one by one."""

import codecs
import gzip
import io
import json
import re
import zlib
from typing import Any

_SEPARATORS = re.compile(r"[\s,\ufeff]*")
LOOKAHEAD = 1 << 12  # characters within which a pattern must match
_BEGINNING = 200  # characters within which the beginning of an element can be recognised
_LONGEST_TOKEN = 12  # characters of the longest literal or escape of JSON
TORN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
decode = json.JSONDecoder().raw_decode
ByteFile = gzip.GzipFile | io.BufferedReader


def skip_separators(text: str, position: int = 0) -> int:
    """The position behind white space and commas."""
    match = _SEPARATORS.match(text, position)
    return match.end() if match else position


class FileChunks:
    """The bytes of a file in chunks. A torn gzip file ends where it is torn; then `error` says so."""

    def __init__(self, file: ByteFile, chunk_bytes: int):
        self.file, self.chunk_bytes, self.error = file, chunk_bytes, ""

    def __iter__(self) -> "FileChunks":
        return self

    def __next__(self) -> bytes:
        try:
            data = self.file.read1(self.chunk_bytes)
        except TORN_GZIP:
            data, self.error = b"", "torn gzip"
        if not data:
            raise StopIteration
        return data


class TextBuffer:
    """The text of a file; what lies before `position` is forgotten."""

    def __init__(self, chunks: FileChunks):
        self.chunks, self.text, self.position = chunks, "", 0
        self._decode_bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.read_more()

    def read_more(self) -> bool:
        """Read on; whether there was more. The rest is at least doubled, so that the work stays linear."""
        parts = [self.text[self.position :]]
        before = len(parts[0])
        missing = max(1, before)
        while missing > 0 and (data := next(self.chunks, b"")):
            parts.append(self._decode_bytes(data))
            missing -= len(parts[-1])
        self.text, self.position = "".join(parts), 0
        return len(self.text) > before

    def peek(self) -> str:
        """The character behind white space and commas, or '' at the end; goes there."""
        while True:
            self.position = skip_separators(self.text, self.position)
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.read_more():
                return ""

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Go past the match of a pattern; whether it matches here."""
        while len(self.text) - self.position < LOOKAHEAD and self.read_more():
            pass
        match = pattern.match(self.text, self.position, self.position + LOOKAHEAD)
        self.position = match.end() if match else self.position
        return match is not None

    def next_value(self, max_chars: float = float("inf")) -> tuple[Any, str]:
        """Decode the value that begins here and go past it; returns the value and its text.

        Raises ValueError or RecursionError if it is torn, OverflowError if it takes more than `max_chars`.
        """
        while True:
            try:
                value, end = decode(self.text, self.position)
            except (ValueError, RecursionError) as error:
                if len(self.text) > max_chars:
                    raise OverflowError from None
                if not (self._is_unfinished(error) and self.read_more()):
                    raise
            else:
                text, self.position = self.text[self.position : end], end
                return value, text

    def seek(self, pattern: re.Pattern[str]) -> bool:
        """Go on to the next match of a pattern behind this position; whether there is one."""
        self.position += 1
        while not (match := pattern.search(self.text, self.position)):
            # The match may lie across the end of what was read.
            self.position = max(self.position, len(self.text) - _BEGINNING)
            if not self.read_more():
                return False
        self.position = match.start()
        return True

    def _is_unfinished(self, error: Exception) -> bool:
        """Whether more text may mend a value: its error is at the end of the text, or within a string."""
        return isinstance(error, json.JSONDecodeError) and (
            error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _LONGEST_TOKEN
        )
