"""Source rows on disk: half a million of them are read, sorted and selected from, and memory stays flat."""

import errno
import hashlib
import os
import pickle
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from medqa.records import RowAudit
from medqa.runtime.environment import scratch_root
from medqa.sources.ultramedical import ParsedRow

T = TypeVar("T")
_CACHE = 16_000  # kilobytes of the database in memory
_TABLES = """
    -- Every row that was read; `parsed` is its ParsedRow.
    CREATE TABLE row (
        source, file, line, id, kind, label_type, prompt, answer_digest, reason, remark,
        number INTEGER PRIMARY KEY, parsed
    );
    CREATE INDEX row_by_id ON row (id);
    -- Every prompt, with the location of the held-out row that it nearly repeats: '' if there is none, NULL
    -- before the search.
    CREATE TABLE prompt (digest PRIMARY KEY, near_duplicate) WITHOUT ROWID;
    -- The rows that an output keeps, under their ids in the output; of the rows with one digest, only one.
    CREATE TABLE selected (output, id, digest, number, PRIMARY KEY (output, id), UNIQUE (output, digest))
        WITHOUT ROWID;
    CREATE TABLE audit (id PRIMARY KEY, output, row, kind, label_type, outcome, reason) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class TableRow:
    """What decides about a source row: everything but its texts."""

    source: str  # sft, train, dev or test
    file: str
    line: int
    id: str = ""
    kind: str = ""
    label_type: str = ""
    prompt: bytes = b""  # digest of the prompt's key: equal for the rows of one prompt
    answer_digest: bytes = b""  # equal for rows with the same answers
    reason: str = ""  # why it was quarantined
    remark: str = ""  # what of it was left out or not understood
    number: int | None = None  # in the table

    @property
    def location(self) -> str:
        return f"{self.source}:{self.file}:{self.line:09d}"


_values = attrgetter(*TableRow.__slots__)
_SELECTED = "selected JOIN row USING (number) WHERE output = ?"
_COLUMNS = ", ".join(f"row.{name}" for name in TableRow.__slots__)


class RowTable:
    """The rows, in a database that vanishes with the process."""

    def __init__(self) -> None:
        # Not /tmp: on many machines that is memory.
        scratch_root().mkdir(parents=True, exist_ok=True)
        handle, file = tempfile.mkstemp(dir=scratch_root())
        os.close(handle)
        self.database = sqlite3.connect(file, check_same_thread=False)
        # Nobody else reads it, and nothing of it outlives a crash.
        for setting in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            self.database.execute(f"PRAGMA {setting}")
        self.database.execute(f"PRAGMA cache_size = -{_CACHE}")
        self.database.executescript(_TABLES)
        os.unlink(file)

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Execute a query. Raises OSError where the disk is full."""
        try:
            return self.database.execute(query, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch_root())) from None
            raise

    def insert(self, table: str, *values: Any, or_else: str = "ABORT") -> bool:
        """Insert a row; on a conflict, `or_else` IGNORE or REPLACE. Returns whether it was inserted."""
        marks = ", ".join("?" * len(values))
        return self.execute(f"INSERT OR {or_else} INTO {table} VALUES ({marks})", *values).rowcount == 1

    def add(self, row: TableRow, parsed: ParsedRow | None) -> None:
        """Store a row, and what it holds if it could be parsed."""
        self.insert("row", *_values(row), pickle.dumps(parsed, pickle.HIGHEST_PROTOCOL))

    def parsed(self, row: TableRow) -> ParsedRow:
        return pickle.loads(self.execute("SELECT parsed FROM row WHERE number = ?", row.number).fetchone()[0])

    def quarantined_rows(self, sources: Sequence[str]) -> Iterator[TableRow]:
        return self._rows(sources, "reason != ''")

    def valid_rows(self, sources: Sequence[str]) -> Iterator[list[TableRow]]:
        """The other rows in the order of their ids, those of one id together, sorted by their texts."""
        for _, group in groupby(self._rows(sources, "reason = ''"), attrgetter("id")):
            rows = list(group)
            if len(rows) > 1:
                rows.sort(key=lambda row: (self.parsed(row), row.location))
            yield rows

    def selected_rows(self, output: str, condition: str, *values: Any) -> Iterator[tuple[str, TableRow]]:
        """The rows that an output keeps and that meet a condition in SQL, with their ids in the output."""
        query = f"SELECT selected.id, {_COLUMNS} FROM {_SELECTED} {condition}"
        return ((row_id, TableRow(*columns)) for row_id, *columns in self.execute(query, output, *values))

    def records(self, output: str, make: Callable[[str, ParsedRow], T]) -> "Records[T]":
        """The records of an output, each made from an id and a parsed row."""
        query = f"SELECT selected.id, parsed FROM {_SELECTED} ORDER BY selected.id"
        return Records(self, lambda row_id, parsed: make(row_id, pickle.loads(parsed)), query, output)

    def audit(self) -> "Records[RowAudit]":
        """What became of every row, by id."""
        return Records(self, RowAudit, "SELECT * FROM audit ORDER BY id")

    def _rows(self, sources: Sequence[str], condition: str) -> Iterator[TableRow]:
        marks = ", ".join("?" * len(sources))
        where = f"source IN ({marks}) AND {condition}"
        query = f"SELECT {_COLUMNS} FROM row INDEXED BY row_by_id WHERE {where} ORDER BY id"
        return (TableRow(*columns) for columns in self.execute(query, *sources))


class Records(Sequence[T]):
    """Records that are made when they are read, from the result of a query."""

    def __init__(self, table: RowTable, make: Callable[..., T], query: str, *values: Any):
        self.table, self.make, self.query, self.values = table, make, query, values

    def __len__(self) -> int:
        return self.table.execute(f"SELECT count(*) FROM ({self.query})", *self.values).fetchone()[0]

    def __iter__(self) -> Iterator[T]:
        return (self.make(*columns) for columns in self.table.execute(self.query, *self.values))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        query = f"{self.query} LIMIT 1 OFFSET ?"
        return self.make(*self.table.execute(query, *self.values, range(len(self))[index]).fetchone())


def digest(*texts: str) -> bytes:
    """A short hash of texts; two different ones never share it in practice (128 bits)."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=16).digest()
