"""Which rows an output keeps, and why not the others."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from medqa.leaks import Leaks
from medqa.shelf import Row, Shelf, digest

OUTPUTS = {"held_out": ("dev", "test"), "labelled": ("dev", "test"), "questions": ("train",), "sft": ("sft",)}


class Chooser:
    """Chooses the rows of one output after the other; `fates` tells of each row the first reason that left it out."""

    def __init__(self, seed: int, shelf: Shelf, held: dict[bytes, str], leaks: Leaks):
        self.seed, self.shelf, self.held, self.leaks = seed, shelf, held, leaks
        self.near: dict[bytes, str] = {}  # of training prompts, where the held-out row stands that they come near to
        self.fates: list[tuple[str, ...]] = []  # the fields of Fate

    def __call__(
        self,
        output: str,
        rows: dict[str, list[Row]],
        kinds: Sequence[str],
        limit: int | None,
        answers: bool = False,
    ) -> list[tuple[str, Row]]:
        """The rows to keep, with their ids. Of the rows of one prompt one is kept, or one for each of its `answers`."""
        first: dict[Any, Row] = {}
        mine = [row for source in OUTPUTS[output] for row in rows[source]]
        for row in mine:
            if row.reason:
                self._tell(output, row, "quarantined", row.reason)
        # Sorted, so that of the rows of one prompt the same is kept wherever they stand.
        for row in self.shelf.sorted(row for row in mine if not row.reason):
            same = (row.key, row.said) if answers else row.key
            if row.kind not in kinds:
                self._tell(output, row, "other_kind")
            elif output in ("questions", "sft") and row.key in self.held:
                self._tell(output, row, "leaked", self.held[row.key])
            elif output in ("questions", "sft") and self._near(row):
                self._tell(output, row, "nearly_leaked", self.near[row.key])
            elif same in first:
                self._tell(output, row, "duplicate", first[same].place)
            else:
                first[same] = row
        return sorted(self._limited(output, _named(first.values()), limit), key=lambda item: item[0])

    def _limited(self, output: str, named: list[tuple[str, Row]], limit: int | None) -> list[tuple[str, Row]]:
        if limit is not None and len(named) > limit:
            named.sort(key=lambda item: hashlib.sha256(f"{self.seed} {item[0]}".encode()).digest())
            for _, row in named[limit:]:
                self._tell(output, row, "over_limit")
        for row_id, row in named[:limit]:
            self._tell(output, row, "kept", row_id=row_id)
        return named[:limit]

    def _near(self, row: Row) -> str:
        if row.key not in self.near:
            found = self.leaks.find(self.shelf.get(row).key)
            self.near[row.key] = self.held[digest(found)] if found else ""
        return self.near[row.key]

    def _tell(self, output: str, row: Row, fate: str, because: str = "", row_id: str = "") -> None:
        fate_id = f"{output}:{row.place}"
        self.fates.append((fate_id, output, row_id or row.id, row.kind, row.label_type, fate, because))


def _named(rows: Iterable[Row]) -> list[tuple[str, Row]]:
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.id] += 1
        named.append((row.id if seen[row.id] == 1 else f"{row.id}~{seen[row.id]}", row))
    return named
