"""Rows whose texts lie on disk: half a million of them are read, and what decides about one is small."""

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from medqa.params import scratch_root
from medqa.ultramedical import Asked


@dataclass(frozen=True, slots=True)
class Row:
    """What decides about a source row: all but its texts."""

    source: str  # sft, train, dev or test
    file: str
    line: int
    id: str = ""
    kind: str = ""
    label_type: str = ""
    key: bytes = b""  # digest of its prompt's key: equal for the rows of one prompt
    said: bytes = b""  # digest of its answers: equal for rows that would teach the same
    at: int = -1  # its place on the shelf
    reason: str = ""  # why it was quarantined

    @property
    def place(self) -> str:
        return f"{self.source}:{self.file}:{self.line:09d}"


class Shelf:
    """The parsed rows, in a file that vanishes with the process."""

    def __init__(self) -> None:
        # Not /tmp: on many machines that is memory.
        scratch_root().mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=scratch_root())  # noqa: SIM115

    def put(self, asked: Asked) -> int:
        at = self.file.tell()
        pickle.dump(asked, self.file, pickle.HIGHEST_PROTOCOL)
        return at

    def get(self, row: Row) -> Asked:
        self.file.seek(row.at)
        return pickle.load(self.file)  # what this process wrote

    def sorted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows by id, those of one id by their texts: an order that does not depend on where they stood."""
        for _, some in groupby(sorted(rows, key=lambda row: row.id), lambda row: row.id):
            alike = list(some)
            yield from alike if len(alike) == 1 else sorted(alike, key=lambda row: (self.get(row), row.place))


class Rows(Sequence):
    """Records that are made when they are asked for, from what they are made of."""

    def __init__(self, parts: list[Any], make: Callable[[Any], Any]):
        self.parts, self.make = parts, make

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, at: int | slice) -> Any:
        return [self.make(part) for part in self.parts[at]] if isinstance(at, slice) else self.make(self.parts[at])


def digest(*texts: str) -> bytes:
    """A short stand-in for texts; two different ones share it never in practice (128 bits)."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=16).digest()
