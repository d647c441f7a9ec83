"""Rows out of JSON that is no JSON lines: arrays, objects over several lines, and any of them strung
together.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.runtime.errors import UserError

BEGINNING = 200  # characters of a torn row that are kept to show
_AHEAD = 1 << 12  # characters in which an object that wraps a list of rows must begin or end
_LARGEST = (
    1 << 26
)  # characters of a first object; a file that is one object beyond that would fill the memory
_SPACE = re.compile(r"[\s,\ufeff]*")
_KEY, _SCALAR = r'"[^"\\]*"', r'(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)'
_WRAPPER = re.compile(
    rf'\{{\s*(?:{_KEY}\s*:\s*{_SCALAR}\s*,\s*)*"(?:data|dataset|rows|records|examples|samples|items|instances|entries|'
    r'results|questions|train|dev|validation|test|sft)"\s*:\s*\[\s*(?=[\[{\]])'
)
_WRAPPED = re.compile(rf"\s*(?:,\s*{_KEY}\s*:\s*{_SCALAR}\s*)*\}}")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class RawRow:
    """One raw row and where it stands. Where it cannot be read, `row` is the beginning of its text, `torn`
    says why.
    """

    file: str
    line: int
    row: Any
    torn: str = ""


def raw_row(path: Path, number: int, row: Any, text: str) -> RawRow:
    """A row that was read from a text, or the beginning of that text if it could not be written again as
    UTF-8.
    """
    try:
        # Bytes that are no UTF-8, or half a surrogate pair.
        text.encode("utf-8")
        if "\\ud" in text or "\\uD" in text:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return RawRow(
            path.name, number, text[:BEGINNING].encode("utf-8", "replace").decode("utf-8"), "invalid UTF-8"
        )
    return RawRow(path.name, number, row)


def rows_in(value: Any) -> list[Any]:
    """The rows that a JSON value stands for: those of a list of objects, else the value itself."""
    return value if isinstance(value, list) and all(isinstance(row, dict) for row in value) else [value]


def values(text: str) -> list[Any]:
    """The JSON values that a line strings together. Raises ValueError or RecursionError if one of them is
    torn.
    """
    read, at = [], _SPACE.match(text).end()
    while at < len(text):
        value, end = _decode(text, at)
        read.append(value)
        at = _SPACE.match(text, end).end()
    return read


class Text:
    """The text of a file, of which only the part from `at` on is in memory. `chunks` are bytes, or why they
    end.
    """

    def __init__(self, chunks: Iterator[tuple[bytes, str]]):
        self.chunks, self.buffer, self.at, self.torn = chunks, "", 0, ""
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.more()

    def more(self) -> bool:
        """Read on; whether there was more. What is still needed is at least doubled, so that the work stays
        linear.
        """
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

    def next(self) -> str:
        """The character after white space and commas, or '' at the end."""
        while True:
            self.at = _SPACE.match(self.buffer, self.at).end()
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def match(self, pattern: re.Pattern[str]) -> bool:
        """Go past what a pattern matches within the next few thousand characters; whether it matches."""
        while len(self.buffer) - self.at < _AHEAD and self.more():
            pass
        match = pattern.match(self.buffer, self.at, self.at + _AHEAD)
        self.at = match.end() if match else self.at
        return match is not None

    def value(self) -> tuple[Any, str]:
        """The value that begins here, and its text; goes past it. Raises ValueError or RecursionError if it
        is torn.
        """
        while True:
            try:
                value, end = _decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                if _unfinished(error, len(self.buffer)) and self.more():
                    continue
                raise
            text, self.at = self.buffer[self.at : end], end
            return value, text

    def skip_to(self, element: re.Pattern[str]) -> bool:
        """Go on to the next place where an element begins; whether there is one."""
        self.at += 1
        while not (start := element.search(self.buffer, self.at)):
            # An element's beginning may lie across the end of what was read.
            self.at = max(self.at, len(self.buffer) - BEGINNING)
            if not self.more():
                return False
        self.at = start.start()
        return True


def by_lines(path: Path, text: Text) -> bool:
    """Whether a text that begins with an object has one object a line. Raises UserError if the object is too
    large.
    """
    text.next()
    if text.match(_WRAPPER):
        return False
    while True:
        try:
            _, end = _decode(text.buffer, text.at)
        except (ValueError, RecursionError) as error:
            if len(text.buffer) > _LARGEST:
                raise UserError(
                    f"{path} begins with a JSON object of more than {_LARGEST >> 20} MB; write its rows one a line"
                ) from None
            if _unfinished(error, len(text.buffer)) and text.more():
                continue
            # Torn, or the first of many: alone on its line a brace is how indented JSON begins.
            return not re.compile(r"\{[^\S\n]*\n").match(text.buffer, text.at)
        first, text.at = text.buffer[text.at : end], end
        return "\n" not in first and text.match(re.compile(r"[^\S\n]*,?[^\S\n]*(?:\n|$)"))


def rows(path: Path, text: Text) -> Iterator[RawRow]:
    """The rows of all arrays and objects of a text, by number, one at a time: the real file is larger than
    the memory.

    A torn one costs itself: the next begins with the same key. Raises UserError if an object wraps more than
    a list.
    """
    number, element, inside, wrapped = 0, None, False, False
    while (mark := text.next()) or inside:
        if mark == "]":
            text.at += 1
            if wrapped and not text.match(_WRAPPED):
                raise UserError(
                    f"{path} is an object that holds more than a list of rows; write each list to a file"
                )
            inside = wrapped = False
            continue
        if not inside and (mark == "[" or (mark == "{" and text.match(_WRAPPER))):
            inside, wrapped, element = True, mark == "{", None
            text.at += mark == "["
            continue
        try:
            value, raw = text.value()
        except (ValueError, RecursionError):
            number += 1
            element = element or _first_key(text.buffer, text.at)
            beginning = text.buffer[text.at : text.at + BEGINNING].encode("utf-8", "replace").decode("utf-8")
            whole = text.skip_to(element)
            yield RawRow(path.name, number, beginning, "torn JSON" if whole else text.torn or "torn JSON")
            if not whole:
                return
            continue
        element = element or _first_key(raw, 0)
        for row in rows_in(value):
            number += 1
            yield raw_row(path, number, row, raw)


def _first_key(text: str, at: int) -> re.Pattern[str]:
    """What an element of an array begins with: its first key, which tells elements from objects nested in
    them.
    """
    key = re.compile(r'\{\s*("(?:[^"\\]|\\.)*")\s*:').match(text, at)
    return re.compile(r"\{\s*" + (re.escape(key[1]) + r"\s*:" if key else '"'))


def _unfinished(error: Exception, length: int) -> bool:
    """Whether an element may be whole when more of the file is read: it goes wrong at the end, or within a
    string.
    """
    if not isinstance(error, json.JSONDecodeError):
        return False
    return (
        error.msg.startswith("Unterminated string") or error.pos >= length - 12
    )  # the longest literal or escape
