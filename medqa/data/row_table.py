"""Rows on disk: half a million of them are read, put in order and chosen from, and memory stays flat."""

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
from typing import Any

from medqa.records import RowAudit
from medqa.runtime.environment import scratch_root
from medqa.sources.ultramedical import ParsedRow

_CACHE = 16_000  # kilobytes of the database in memory
_TABLES = """
    -- What was read; `asked` is the parsed row.
    CREATE TABLE row (
        source, file, line, id, kind, label_type, key, said, reason, remark, at INTEGER PRIMARY KEY, asked
    );
    CREATE INDEX row_by_id ON row (id);
    -- Where the held-out row stands that a prompt comes near to; '' if there is none, NULL before it was looked for.
    CREATE TABLE prompt (key PRIMARY KEY, near) WITHOUT ROWID;
    -- Of each output, rows that are alike only once; those that it keeps, by the ids that they get; all rows' audit.
    CREATE TABLE first (output, same, place, PRIMARY KEY (output, same)) WITHOUT ROWID;
    CREATE TABLE kept (output, id, at, PRIMARY KEY (output, id)) WITHOUT ROWID;
    CREATE TABLE fate (id PRIMARY KEY, output, row_id, kind, label_type, fate, because) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class TableRow:
    """What decides about a source row: all but its texts."""

    source: str  # sft, train, dev or test
    file: str
    line: int
    id: str = ""
    kind: str = ""
    label_type: str = ""
    key: bytes = b""  # digest of its prompt's key: equal for the rows of one prompt
    said: bytes = b""  # digest of its answers: equal for rows that would teach the same
    reason: str = ""  # why it was quarantined
    remark: str = ""  # what of it was left out or not understood
    at: int | None = None  # its number on the shelf

    @property
    def place(self) -> str:
        return f"{self.source}:{self.file}:{self.line:09d}"


_values = attrgetter(*TableRow.__slots__)
_COLUMNS = ", ".join(f"row.{name}" for name in TableRow.__slots__)


class RowTable:
    """The rows, in a database that vanishes with the process."""

    def __init__(self) -> None:
        # Not /tmp: on many machines that is memory.
        scratch_root().mkdir(parents=True, exist_ok=True)
        handle, file = tempfile.mkstemp(dir=scratch_root())
        os.close(handle)
        self.db = sqlite3.connect(file, check_same_thread=False)
        # Nobody else reads it, and nothing of it outlives a crash.
        self.db.execute("PRAGMA journal_mode = OFF")
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.db.execute(f"PRAGMA cache_size = -{_CACHE}")
        self.db.executescript(_TABLES)
        os.unlink(file)

    def ask(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Execute a query. Raises OSError where the disk is full."""
        try:
            return self.db.execute(query, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch_root())) from None
            raise

    def put(self, row: TableRow, asked: ParsedRow | None) -> None:
        """Keep a row, and what it holds if it could be parsed."""
        marks = ", ".join("?" * 12)
        self.ask(
            f"INSERT INTO row VALUES ({marks})", *_values(row), pickle.dumps(asked, pickle.HIGHEST_PROTOCOL)
        )

    def get(self, row: TableRow) -> ParsedRow:
        return pickle.loads(self.ask("SELECT asked FROM row WHERE at = ?", row.at).fetchone()[0])

    def new(self, key: bytes) -> bool:
        """Whether this is the first time that a prompt is asked after, by the digest of its key."""
        return self.ask("INSERT OR IGNORE INTO prompt VALUES (?, NULL)", key).rowcount == 1

    def bad(self, sources: Sequence[str]) -> Iterator[TableRow]:
        """The quarantined rows."""
        return self._rows(sources, "reason != ''")

    def sound(self, sources: Sequence[str]) -> Iterator[TableRow]:
        """The others by id, those of one id by their texts: an order that does not depend on where they
        stood.
        """
        for _, some in groupby(self._rows(sources, "reason = ''"), lambda row: row.id):
            alike = list(some)
            yield from alike if len(alike) == 1 else sorted(alike, key=lambda row: (self.get(row), row.place))

    def kept(self, output: str, order: str, *values: Any) -> Iterator[tuple[str, TableRow]]:
        """The rows that an output keeps, with the ids that they get."""
        query = f"SELECT kept.id, {_COLUMNS} FROM kept JOIN row USING (at) WHERE output = ? {order}"
        return ((row_id, TableRow(*found)) for row_id, *found in self.ask(query, output, *values))

    def records(self, output: str, make: Callable[[str, ParsedRow], Any]) -> "Rows":
        """What an output keeps, made into records of its own from an id and a parsed row."""
        query = "SELECT kept.id, asked FROM kept JOIN row USING (at) WHERE output = ? ORDER BY kept.id"
        return Rows(self, lambda row_id, asked: make(row_id, pickle.loads(asked)), query, output)

    def audit(self) -> "Rows":
        """What became of every row, by id."""
        return Rows(self, RowAudit, "SELECT * FROM fate ORDER BY id")

    def _rows(self, sources: Sequence[str], which: str) -> Iterator[TableRow]:
        marks = ", ".join("?" * len(sources))
        query = f"SELECT {_COLUMNS} FROM row INDEXED BY row_by_id WHERE source IN ({marks}) AND {which} ORDER BY id"
        return (TableRow(*found) for found in self.ask(query, *sources))


class Rows(Sequence):
    """Records that are made when they are asked for, from what a query finds on a shelf."""

    def __init__(self, shelf: RowTable, make: Callable[..., Any], query: str, *values: Any):
        self.shelf, self.make, self.query, self.values = shelf, make, query, values

    def __len__(self) -> int:
        return self.shelf.ask(f"SELECT count(*) FROM ({self.query})", *self.values).fetchone()[0]

    def __iter__(self) -> Iterator[Any]:
        return (self.make(*found) for found in self.shelf.ask(self.query, *self.values))

    def __getitem__(self, at: int | slice) -> Any:
        places = range(len(self))[at]
        if isinstance(at, int):
            return self._some(places, 1)[0]
        return self._some(places.start, len(places)) if places.step == 1 else list(self)[at]

    def _some(self, start: int, count: int) -> list[Any]:
        found = self.shelf.ask(f"{self.query} LIMIT ? OFFSET ?", *self.values, count, start)
        return [self.make(*parts) for parts in found]


def digest(*texts: str) -> bytes:
    """A short stand-in for texts; two different ones share it never in practice (128 bits)."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=16).digest()
