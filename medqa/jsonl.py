"""Reading and writing records as JSON lines, one record per line, sorted by id."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, TypeVar

from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
_encode = json.JSONEncoder(ensure_ascii=False).encode
NO_ROWS = "\n"  # the content of a file without rows: DVC warns of every empty file, whenever it reads one


def read(path: Path, record: type[R]) -> Iterator[R]:
    """The records of a file, one by one. Raises UserError naming file and line for a torn or foreign row."""
    names = {field.name for field in fields(record)}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line == NO_ROWS.encode():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or row.keys() != names:
                keys = ", ".join(sorted(names))
                problem = f"{path}, line {number}: not a {record.__name__} record (keys {keys})"
                raise UserError(f"{problem}; rerun the stage that writes this file")
            lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
            yield record(**row | lists)


def read_all(path: Path, record: type[R]) -> list[R]:
    """All records of a file. Raises UserError if there is none: no stage can do its work on nothing."""
    rows = list(read(path, record))
    if not rows:
        raise UserError(f"{path} holds no row; look at what its stage left out (in metrics/)")
    return rows


def write(path: Path, rows: Iterable[Any], ordered: bool = False) -> int:
    """Write records sorted by id, all or nothing, without all of them in memory; returns their number.

    `ordered` rows come sorted. Raises ValueError for an id that comes twice, or out of order.
    """
    last, total = None, 0
    # Records are flat: vars is asdict without its deep copy, which would take minutes for a million rows.
    lines = ((row.id, _encode(vars(row)) + "\n") for row in rows)
    with atomic_write(path) as file, tempfile.TemporaryFile(dir=path.parent) as spool:
        for row_id, line in lines if ordered else _sorted(lines, spool):
            if last is not None and row_id <= last:
                problem = f"the id {row_id} comes twice" if row_id == last else f"{row_id} comes too late"
                raise ValueError(f"{path}: {problem}")
            file.write(line)
            last, total = row_id, total + 1
        if not total:
            file.write(NO_ROWS)
    return total


def _sorted(lines: Iterable[tuple[str, str]], spool: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Lines in the order of their ids; meanwhile the file `spool` holds them."""
    offsets = []
    for row_id, line in lines:
        offsets.append((row_id, spool.tell()))
        spool.write(line.encode("utf-8"))
    for row_id, offset in sorted(offsets):
        spool.seek(offset)
        yield row_id, spool.readline().decode("utf-8")


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics as JSON, floats rounded to 4 places so that a diff shows what moved and not noise.

    Raises ValueError for NaN, which every diff would count as changed.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(rounded(metrics), indent=2, allow_nan=False) + "\n")


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file that appears at `path` only when it is complete and has reached the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def rounded(value: Any) -> Any:
    """Metrics with their floats rounded to 4 places, as they are stored."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) + 0.0 if isinstance(value, float) else value
