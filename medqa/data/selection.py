"""Which rows an output keeps, and why not the others."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count

from medqa.data.decontamination import Decontamination
from medqa.data.row_table import RowTable, TableRow, digest
from medqa.sampling import draw_order

OUTPUTS = {"held_out": ("dev", "test"), "labelled": ("dev", "test"), "questions": ("train",), "sft": ("sft",)}


class Selection:
    """Selects the rows of each output in turn, and audits each row: the first reason that left it out."""

    def __init__(
        self,
        seed: int,
        table: RowTable,
        decontamination: Decontamination,
        benchmarks: Iterable[tuple[str, str]] = (),
    ):
        """Take the table with all rows, and the decontamination with the words of all prompts counted.

        `benchmarks` are the ids of benchmark questions with the keys of their prompts.
        """
        self.table, self.decontamination = table, decontamination
        self.held_out: dict[bytes, str] = {}  # locations by the digests of the prompts
        table.database.create_function("draw_order", 1, partial(draw_order, seed), deterministic=True)
        for row in chain.from_iterable(table.valid_rows(OUTPUTS["held_out"])):
            if row.prompt not in self.held_out:
                self.held_out[row.prompt] = row.location
                decontamination.add_held_out(table.parsed(row).key)
        for id, key in benchmarks:
            self.held_out.setdefault(digest(key), f"benchmark:{id}")
            decontamination.add_held_out(key)

    def select(self, output: str, kinds: Sequence[str], limit: int | None, by_answer: bool = False) -> None:
        """Keep the rows of an output, at most `limit` of them, drawn by the seed.

        Of the rows of one prompt one is kept; if `by_answer`, one per answer.
        """
        for row in self.table.quarantined_rows(OUTPUTS[output]):
            self._audit(output, row, "quarantined", row.reason)
        # In this order, the same one of the rows of a prompt is kept wherever they are in the files.
        for rows in self.table.valid_rows(OUTPUTS[output]):
            ids = _output_ids(rows[0].id)
            for row in rows:
                row_digest = row.prompt + row.answer_digest if by_answer else row.prompt
                if left_out := self._reason_to_leave_out(output, row, kinds, row_digest):
                    self._audit(output, row, *left_out)
                else:
                    self._keep(output, row, row_digest, ids)
        if limit is not None:
            order = "ORDER BY draw_order(selected.id) LIMIT -1 OFFSET ?"
            for row_id, row in self.table.selected_rows(output, order, limit):
                self._audit(output, row, "over_limit")
                self.table.execute("DELETE FROM selected WHERE output = ? AND id = ?", output, row_id)

    def _reason_to_leave_out(
        self, output: str, row: TableRow, kinds: Sequence[str], row_digest: bytes
    ) -> tuple[str, str] | None:
        """Why a row is not kept, and the location of the row that is the cause."""
        if row.kind not in kinds:
            return "other_kind", ""
        if output in ("questions", "sft"):
            if row.prompt in self.held_out:
                return "contaminated", self.held_out[row.prompt]
            if near := self._near_duplicate(row):
                return "near_duplicate", near
        equal_rows = self.table.selected_rows(output, "AND digest = ?", row_digest)
        return next((("duplicate", row.location) for _, row in equal_rows), None)

    def _near_duplicate(self, row: TableRow) -> str:
        """The location of the held-out row whose prompt this row nearly repeats; '' if there is none."""
        query = "SELECT near_duplicate FROM prompt WHERE digest = ?"
        location = self.table.execute(query, row.prompt).fetchone()[0]
        if location is None:
            match = self.decontamination.match(self.table.parsed(row).key)
            location = self.held_out[digest(match)] if match else ""
            self.table.execute("UPDATE prompt SET near_duplicate = ? WHERE digest = ?", location, row.prompt)
        return location

    def _keep(self, output: str, row: TableRow, row_digest: bytes, ids: Iterator[str]) -> None:
        """Keep a row under the first of the ids that is free."""
        for row_id in ids:
            if self.table.insert("selected", output, row_id, row_digest, row.number, or_else="IGNORE"):
                self._audit(output, row, "kept", row.remark, row_id)
                return

    def _audit(
        self, output: str, row: TableRow, outcome: str, reason: str = "", row_id: str | None = None
    ) -> None:
        values = (output, row_id or row.id, row.kind, row.label_type, outcome, reason)
        self.table.insert("audit", f"{output}:{row.location}", *values, or_else="REPLACE")


def _output_ids(row_id: str) -> Iterator[str]:
    """The ids that the rows with this id get in an output, one after the other.

    # is escaped, because later ids are made of it (question_id#sample); so is %, that no two ids become one.
    """
    escaped = row_id.replace("%", "%25").replace("#", "%23")
    return chain([escaped], (f"{escaped}~{number}" for number in count(2)))
