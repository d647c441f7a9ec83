"""One row as a file holds it."""

import json
from dataclasses import dataclass
from typing import Any

EXCERPT = 200  # characters of a bad row that are shown
TORN_JSON, INVALID_UTF8 = "torn JSON", "invalid UTF-8"


@dataclass(frozen=True)
class RawRow:
    """A raw row and its location. If it has an `error`, it cannot be read, and `row` is its beginning."""

    file: str
    line: int
    row: Any
    error: str = ""


def excerpt(text: str) -> str:
    """The beginning of a text, in a form that can be written as UTF-8."""
    return text[:EXCERPT].encode("utf-8", "replace").decode("utf-8")


def from_value(file: str, line: int, value: Any, text: str) -> RawRow:
    """A decoded value as a row; an error if it, or its text, cannot be written as UTF-8."""
    try:
        text.encode("utf-8")  # fails on bytes that are no UTF-8, which decoding turned into surrogates
        if "\\ud" in text or "\\uD" in text:  # perhaps an escaped half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return RawRow(file, line, excerpt(text), INVALID_UTF8)
    return RawRow(file, line, value)


def rows_in(value: Any) -> list[Any]:
    """The rows that a JSON value stands for: those of a list of objects, else the value itself."""
    return value if isinstance(value, list) and all(isinstance(row, dict) for row in value) else [value]
