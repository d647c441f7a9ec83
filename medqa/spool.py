"""Spools: rows on the disk, in their order, for a stage that has more of them than memory."""

import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from medqa.runtime.environment import scratch_root

T = TypeVar("T")
BLOCK = 128  # items that are read and written at once


class Spool(Sequence[T]):
    """The items of an iterable, which are all written to the disk at once, and read when they are needed.

    The file is in `folder`, by default that of work in progress, has no name, and is gone with the object.
    `block` items are in memory at once, and a number of 8 bytes for each block.
    """

    def __init__(self, items: Iterable[T], folder: Path | None = None, block: int = BLOCK):
        if folder is None:
            folder = scratch_root()  # not /tmp: on many machines that is memory
            folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.block, self.length = block, 0
        self.offsets = array("q")  # of each block
        for batch in batches(items, block):
            self.offsets.append(self.file.tell())
            pickle.dump(batch, self.file, pickle.HIGHEST_PROTOCOL)
            self.length += len(batch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        return self.part(0, self.length)

    def part(self, start: int, stop: int) -> Iterator[T]:
        """The items from number `start` to before number `stop`; several parts may be read in turns."""
        for number in range(start // self.block, -(-min(stop, self.length) // self.block)):
            first = number * self.block
            yield from self._read(number)[max(0, start - first) : stop - first]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(self.length)[index]]
        number = range(self.length)[index]
        return self._read(number // self.block)[number % self.block]

    def _read(self, number: int) -> list[T]:
        self.file.seek(self.offsets[number])
        return pickle.load(self.file)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of so many; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
