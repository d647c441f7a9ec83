"""Which rows an output keeps, and why not the others."""

import hashlib
from collections.abc import Sequence

from medqa.data.decontamination import Decontamination
from medqa.data.row_table import RowTable, TableRow, digest

OUTPUTS = {"held_out": ("dev", "test"), "labelled": ("dev", "test"), "questions": ("train",), "sft": ("sft",)}


class Selection:
    """Chooses the rows of one output after the other, and tells of each row the first reason that left it
    out.
    """

    def __init__(self, seed: int, shelf: RowTable, held: dict[bytes, str], leaks: Decontamination):
        self.shelf, self.held, self.leaks = shelf, held, leaks

        def draw(row_id: str) -> bytes:
            return hashlib.sha256(f"{seed} {row_id}".encode()).digest()

        shelf.db.create_function("draw", 1, draw, deterministic=True)

    def __call__(self, output: str, kinds: Sequence[str], limit: int | None, answers: bool = False) -> None:
        """Keep an output's rows. Of the rows of one prompt one is kept, or one for each of its `answers`."""
        for row in self.shelf.bad(OUTPUTS[output]):
            self._tell(output, row, "quarantined", row.reason)
        last, times = None, 1
        # In this order, so that of the rows of one prompt the same is kept wherever they stand.
        for row in self.shelf.sound(OUTPUTS[output]):
            if left_out := self._left_out(output, row, kinds, row.key + row.said if answers else row.key):
                self._tell(output, row, *left_out)
                continue
            times = times + 1 if row.id == last else 1
            last = row.id
            while not self._named(output, row.id if times == 1 else f"{row.id}~{times}", row):
                times += 1
        self._limit(output, limit)

    def _left_out(
        self, output: str, row: TableRow, kinds: Sequence[str], same: bytes
    ) -> tuple[str, str] | None:
        """Why a row is not kept, and because of which other."""
        if row.kind not in kinds:
            return "other_kind", ""
        if output in ("questions", "sft"):
            if row.key in self.held:
                return "contaminated", self.held[row.key]
            if near := self._near(row):
                return "near_duplicate", near
        if self.shelf.ask("INSERT OR IGNORE INTO first VALUES (?, ?, ?)", output, same, row.place).rowcount:
            return None
        query = "SELECT place FROM first WHERE output = ? AND same = ?"
        return "duplicate", self.shelf.ask(query, output, same).fetchone()[0]

    def _near(self, row: TableRow) -> str:
        near = self.shelf.ask("SELECT near FROM prompt WHERE key = ?", row.key).fetchone()[0]
        if near is None:
            found = self.leaks.find(self.shelf.get(row).key)
            near = self.held[digest(found)] if found else ""
            self.shelf.ask("UPDATE prompt SET near = ? WHERE key = ?", near, row.key)
        return near

    def _named(self, output: str, row_id: str, row: TableRow) -> bool:
        """Keep a row under an id, unless another has it."""
        return (
            self.shelf.ask("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", output, row_id, row.at).rowcount
            == 1
        )

    def _limit(self, output: str, limit: int | None) -> None:
        """Keep as many as may be, drawn by the seed, and tell of all that were to be kept."""
        if limit is not None:
            for row_id, row in self.shelf.kept(output, "ORDER BY draw(kept.id) LIMIT -1 OFFSET ?", limit):
                self._tell(output, row, "over_limit")
                self.shelf.ask("DELETE FROM kept WHERE output = ? AND id = ?", output, row_id)
        for row_id, row in self.shelf.kept(output, "ORDER BY kept.id"):
            self._tell(output, row, "kept", row.remark, row_id)

    def _tell(self, output: str, row: TableRow, fate: str, because: str = "", row_id: str = "") -> None:
        told = (f"{output}:{row.place}", output, row_id or row.id, row.kind, row.label_type, fate, because)
        self.shelf.ask("INSERT INTO fate VALUES (?, ?, ?, ?, ?, ?, ?)", *told)
