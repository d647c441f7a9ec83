"""Questions with their answers, out of a table: by the columns that the user names, sound ones alone."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medqa.importing.tables import Table
from medqa.runtime.errors import UserError
from medqa.sources.labellers import read_labeller
from medqa.sources.options import prompt_key
from medqa.text import normalize, words


@dataclass(frozen=True)
class Columns:
    """Which column holds what; '' for a text that the table does not have."""

    question: str
    answer: str
    reference: str = ""
    rejected: str = ""
    attribute: str = ""
    labelled_by: str = ""


@dataclass(frozen=True)
class Row:
    """A question with its answer; '' for a text that its row does not have."""

    id: str
    question: str
    answer: str
    reference: str
    rejected: str
    attribute: str
    labelled_by: str

    @cached_property
    def key(self) -> str:
        """The form in which two prompts are one question."""
        return prompt_key(self.question)


LeftOut = dict[str, list[int]]  # the lines of the file by the reason that left them out


def read_rows(table: Table, columns: Columns) -> tuple[list[Row], LeftOut]:
    """The sound rows of a table, and the lines that hold none. Raises UserError for a missing column."""
    _check(table, columns)
    rows: dict[tuple[str, str, str], Row] = {}
    left_out: LeftOut = defaultdict(list)
    for raw in table.rows:
        try:
            if raw.error or not isinstance(raw.row, dict):
                raise ValueError(raw.error or "not an object")
            row = _row(f"row-{raw.line}", raw.row, columns)
            if row is not rows.setdefault((row.key, normalize(row.answer), normalize(row.rejected)), row):
                raise ValueError("equal to an earlier row")
        except ValueError as error:
            left_out[str(error)].append(raw.line)
    return list(rows.values()), dict(left_out)


def _check(table: Table, columns: Columns) -> None:
    listed = ", ".join(table.columns)
    named = {f"--{key.replace('_', '-')}": value for key, value in vars(columns).items() if value}
    if len(table.columns) == 1:
        raise UserError(f"the only column is {listed!r}; a column of questions and one of answers are needed")
    for option, column in named.items():
        if column not in table.columns:
            raise UserError(f"{option} {column!r} is no column; there are {listed}")
    texts = [columns.question, columns.answer, *filter(None, [columns.rejected])]
    if len(set(texts)) < len(texts):
        raise UserError(f"--question, --answer and --rejected must name different columns ({listed})")


def _row(row_id: str, cells: dict[str, Any], columns: Columns) -> Row:
    """Raises ValueError with the reason if the row cannot be used."""
    texts = {name: _text(name, cells.get(column)) for name, column in vars(columns).items()}
    for name in ("question", "answer"):
        if not words(texts[name]):
            raise ValueError(f"no {name}")
    texts["labelled_by"] = read_labeller(texts["labelled_by"])
    return Row(row_id, **texts)


def _text(name: str, value: Any) -> str:
    """A cell as text: a number counts as one, an empty cell (None, NaN) is ''."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"the {name} is not text")
    text = value if isinstance(value, str) else json.dumps(value)
    return "\n".join(text.strip().splitlines())
