"""Rows out of JSON that is not JSON lines: arrays, objects over several lines, and any sequence of them.

No library does this: ijson 3.6 ends at a torn row, and its C parser crashes on a very long number.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medqa.runtime.errors import UserError
from medqa.sources.raw_row import EXCERPT, TORN_JSON, RawRow, excerpt, from_value, rows_in
from medqa.sources.text_buffer import TextBuffer, decode, skip_separators

_KEY, _SCALAR = r'"[^"\\]*"', r'(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)'
_WRAPPER_START = re.compile(
    rf'\{{\s*(?:{_KEY}\s*:\s*{_SCALAR}\s*,\s*)*"(?:data|dataset|rows|records|examples|samples|items|instances|entries|'
    r'results|questions|train|dev|validation|test|sft)"\s*:\s*\[\s*(?=[\[{\]])'
)
_WRAPPER_END = re.compile(rf"\]\s*(?:,\s*{_KEY}\s*:\s*{_SCALAR}\s*)*\}}")
_ARRAY_START, _ARRAY_END = re.compile(r"\["), re.compile(r"\]")
_LINE_END = re.compile(r"[^\S\n]*,?[^\S\n]*(?:\n|$)")
_INDENTED_OBJECT = re.compile(r"\{[^\S\n]*\n")


def read_values(text: str) -> list[Any]:
    """The JSON values in a line. Raises ValueError or RecursionError if one of them is torn."""
    values, position = [], skip_separators(text)
    while position < len(text):
        value, end = decode(text, position)
        values.append(value)
        position = skip_separators(text, end)
    return values


def is_json_lines(path: Path, text: TextBuffer, max_chars: int) -> bool:
    """Whether a text that begins with an object has one object per line.

    Raises UserError if the object has more than `max_chars` characters: a file that is one object would fill
    the memory.
    """
    text.peek()
    if text.skip(_WRAPPER_START):
        return False
    try:
        _, first = text.next_value(max_chars)
    except OverflowError:
        raise UserError(
            f"{path} begins with a JSON object of more than {max_chars >> 20} MB; write its rows one per line"
        ) from None
    except (ValueError, RecursionError):
        # Either a torn row, or indented JSON: that begins with a brace alone on its line.
        return not _INDENTED_OBJECT.match(text.text, text.position)
    return "\n" not in first and text.skip(_LINE_END)


def read_rows(path: Path, text: TextBuffer) -> Iterator[RawRow]:
    """The rows of all arrays and objects of a text, numbered and streamed: a file may be larger than memory.

    A torn row costs itself: the next one begins with the same key. Raises UserError if an object wraps more
    than one list.
    """
    number, row_start, array_end = 0, None, None
    while (char := text.peek()) or array_end:
        if char == "]":
            if not text.skip(array_end or _ARRAY_END):
                problem = "is an object that holds more than a list of rows; write each list to a file"
                raise UserError(f"{path} {problem}")
            array_end = None
        elif not array_end and (array_end := _enter_array(char, text)):
            row_start = None
        else:
            try:
                value, raw = text.next_value()
            except (ValueError, RecursionError):
                number += 1
                row_start = row_start or _row_start(text.text[text.position :])
                torn = excerpt(text.text[text.position : text.position + EXCERPT])
                is_followed = text.seek(row_start)
                error = TORN_JSON if is_followed else text.chunks.error or TORN_JSON
                yield RawRow(path.name, number, torn, error)
                if not is_followed:
                    return
            else:
                row_start = row_start or _row_start(raw)
                for row in rows_in(value):
                    number += 1
                    yield from_value(path.name, number, row, raw)


def _enter_array(char: str, text: TextBuffer) -> re.Pattern[str] | None:
    """Go into the array of rows that begins here; returns what will end it, or None if there is none."""
    if char == "[" and text.skip(_ARRAY_START):
        return _ARRAY_END
    return _WRAPPER_END if char == "{" and text.skip(_WRAPPER_START) else None


def _row_start(text: str) -> re.Pattern[str]:
    """What the rows of an array begin with: the first key of the first row, which nested objects lack."""
    key = re.match(r'\{\s*("(?:[^"\\]|\\.)*")\s*:', text)
    return re.compile(r"\{\s*" + (re.escape(key[1]) + r"\s*:" if key else '"'))
