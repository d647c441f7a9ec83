"""Reading and writing records as JSON lines, one record per line, sorted by id."""

import heapq
import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from medqa.runtime.errors import UserError
from medqa.spool import Spool

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
_encode = json.JSONEncoder(ensure_ascii=False).encode
RUN = 1 << 19  # characters of lines that are sorted in memory
NO_ROWS = "\n"  # the content of a file without rows: DVC warns of every empty file, whenever it reads one


def read(path: Path, record: type[R], without: Iterable[str] = ()) -> Iterator[R]:
    """The records of a file, one by one, with '' in the fields `without`, texts that nobody reads.

    Raises UserError naming file and line for a torn or foreign row.
    """
    empty = dict.fromkeys(without, "")
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
            yield record(**row | lists | empty)


class Rows(Collection[R]):
    """The records of a file, which is read anew each time and never in memory as a whole.

    Raises UserError if there is none: no stage can do its work on nothing.
    """

    def __init__(self, path: Path, record: type[R]):
        self.path, self.record = path, record
        with open(path, "rb") as file:
            self.length = sum(line != NO_ROWS.encode() for line in file)
        if not self.length:
            raise UserError(f"{path} holds no row; look at what its stage left out (in metrics/)")

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[R]:
        return read(self.path, self.record)

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)


def read_all(path: Path, record: type[R]) -> list[R]:
    """All records of a file. Raises UserError if there is none."""
    return list(Rows(path, record))


def write(path: Path, rows: Iterable[Any], ordered: bool = False) -> int:
    """Write records sorted by id, all or nothing, without all of them in memory; returns their number.

    `ordered` rows come sorted. Raises ValueError for an id that comes twice, or out of order.
    """
    last, total = None, 0
    # Records are flat: vars is asdict without its deep copy, which would take minutes for a million rows.
    lines = ((row.id, _encode(vars(row)) + "\n") for row in rows)
    with atomic_write(path) as file:
        for row_id, line in lines if ordered else _sorted(lines, path.parent):
            if last is not None and row_id <= last:
                problem = f"the id {row_id} comes twice" if row_id == last else f"{row_id} comes too late"
                raise ValueError(f"{path}: {problem}")
            file.write(line)
            last, total = row_id, total + 1
        if not total:
            file.write(NO_ROWS)
    return total


def _sorted(lines: Iterable[tuple[str, str]], folder: Path) -> Iterator[tuple[str, str]]:
    """Lines in the order of their ids: runs of them are sorted in memory, and merged from the disk."""
    ends: list[int] = []
    spool = Spool(_sorted_runs(lines, ends), folder, block=1)
    return heapq.merge(*(spool.part(start, end) for start, end in pairwise([0, *ends])))


def _sorted_runs(lines: Iterable[tuple[str, str]], ends: list[int]) -> Iterator[tuple[str, str]]:
    """The lines of one run after the other, each run sorted; the end of each is appended to `ends`."""
    run: list[tuple[str, str]] = []
    size = total = 0
    for line in lines:
        run.append(line)
        size, total = size + len(line[1]), total + 1
        if size >= RUN:
            yield from sorted(run)
            ends.append(total)
            run.clear()
            size = 0
    yield from sorted(run)
    ends.append(total)


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
