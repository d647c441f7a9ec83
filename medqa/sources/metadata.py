"""The metadata of a preference row: its golden answer and key points, its attribute, and who labelled it."""

import json
import math
from dataclasses import dataclass
from typing import Any

from medqa.sources.labellers import read_labeller
from medqa.text import words


@dataclass(frozen=True)
class Metadata:
    """What a row says beside its texts; '' or empty where it says nothing."""

    golden: str
    key_points: tuple[str, ...]
    attribute: str  # what the question is about, such as treatment
    labelled_by: str  # as in `labellers.read_labeller`


def read_metadata(row: dict[str, Any]) -> Metadata:
    """The metadata of a preference row, from under `metadata` or beside it.

    Raises ValueError with the reason if a value is of no kind that can be read.
    """
    metadata = decoded(row.get("metadata")) or {}
    if not isinstance(metadata, dict):
        raise ValueError("metadata is not an object")

    def value(key: str) -> Any:
        return decoded(row.get(key) if metadata.get(key) is None else metadata[key])

    golden = value("golden_answer")
    golden = golden[0] if isinstance(golden, list) and len(golden) == 1 else golden
    return Metadata(
        _text(golden, "golden_answer"),
        _key_points(value("key_points")),
        " ".join(_text(value("attribute"), "attribute").split()),
        read_labeller(value("labelled_by")),
    )


def decoded(value: Any) -> Any:
    """A value that may be stored as JSON text; none where a table has NaN."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(value: Any, key: str) -> str:
    """A text or a number as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"{key} is not text")
    return value if isinstance(value, str) else "" if value is None else str(value).removesuffix(".0")


def _key_points(points: Any) -> tuple[str, ...]:
    points = [] if points is None or points == "" else points
    if not isinstance(points, list) or not all(
        isinstance(point, str | int | float | None) for point in points
    ):
        raise ValueError("key_points are not a list of texts")
    texts = [str(point) for point in points if point is not None]
    return tuple(text for text in texts if words(text))
