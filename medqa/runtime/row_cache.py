"""The row store: every answer and score under a key of all that determines it, so that no work is done twice.

One SQLite file under `params.scratch_root()`, shared by every run on the machine. A chunk's rows are on the
disk when `put` returns. What is read is checked against a sum; what is damaged is dropped, said and made
again.
"""

import hashlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medqa.runtime.environment import project, scratch_root

VERSION = 1  # of the file and of the keys: another version is another file
LIMIT = 2 << 30  # bytes; beyond it the rows that were used longest ago go
WAIT = 60  # seconds for another process to finish writing
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SCHEMA = """
CREATE TABLE IF NOT EXISTS models(model TEXT PRIMARY KEY, name TEXT, hits INTEGER);
CREATE TABLE IF NOT EXISTS users(model TEXT, project TEXT, PRIMARY KEY(model, project)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows(key BLOB PRIMARY KEY, model TEXT, day INTEGER, value BLOB, sum BLOB) WITHOUT ROWID;
"""


def path() -> Path:
    """Where the store of this machine, or of this repository, is."""
    return scratch_root() / "store" / f"rows-{VERSION}.sqlite"


def seal(key: bytes, model: str, value: bytes) -> bytes:
    """The sum that a row is checked against."""
    return hashlib.sha256(b"%b %b %b" % (key, model.encode(), value)).digest()[:16]


def sound(key: Any, model: Any, value: Any, sum_: Any) -> bool:
    """Whether a row is as it was written; a damaged file may give back any type."""
    return isinstance(key, bytes) and isinstance(value, bytes) and seal(key, str(model), value) == sum_


def connect(file: Path) -> sqlite3.Connection:
    """The open store, made if it is not there. Raises sqlite3.Error or OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file, timeout=WAIT)
    db.text_factory = lambda text: text.decode(errors="replace")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")  # a commit survives the machine losing power
    db.executescript(SCHEMA)
    return db


def size(db: sqlite3.Connection) -> int:
    """Bytes in use."""
    pages, free, width = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * width


class RowCache:
    """Rows by key. Never raises for a store that cannot be read or written: it says so once and goes on
    without.
    """

    kept = 0  # rows that this process has put into any store

    def __init__(self, file: Path, limit: int = LIMIT):
        self.file, self.limit = file, limit
        self.reads = self.writes = True
        self.db: sqlite3.Connection | None = None
        self._safely(lambda db: None)

    def get(self, model: str, name: str, keys: Sequence[bytes]) -> dict[bytes, list[Any]]:
        """What is known of the keys. Damaged rows are dropped."""
        if not self.reads:
            return {}
        known: dict[bytes, list[Any]] = {}
        bad = []

        def look(db: sqlite3.Connection) -> None:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                for row in db.execute(
                    f"SELECT key, model, value, sum FROM rows WHERE key IN ({marks})", some
                ):
                    if sound(*row):
                        known[row[0]] = json.loads(row[2])
                    else:
                        bad.append(row[0])

        def note(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in bad])
            today = int(time.time() // 86400)
            db.executemany(
                "UPDATE rows SET day = ? WHERE key = ? AND day < ?", [(today, key, today) for key in known]
            )
            db.execute(
                "INSERT INTO models VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET hits = hits + excluded.hits",
                (model, name, len(known)),
            )
            db.execute("INSERT OR IGNORE INTO users VALUES (?, ?)", (model, str(project().resolve())))

        if not self._safely(look):
            known.clear()
        if bad:
            say(f"{len(bad)} damaged rows in {self.file} are dropped and made again")
        if self.writes:
            self._safely(note)
        return known

    def put(self, model: str, rows: dict[bytes, Sequence[Any]]) -> None:
        """Keep rows; they are on the disk when this returns. A number that is not finite is never kept."""
        values = {}
        for key, row in rows.items():
            with suppress(ValueError):
                values[key] = json.dumps(row, allow_nan=False).encode()
        today = int(time.time() // 86400)
        told = [(key, model, today, value, seal(key, model, value)) for key, value in values.items()]

        def write(db: sqlite3.Connection) -> None:
            if size(db) > self.limit:
                drop_oldest(db, 0.25)
            db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", told)

        # The second try is for a file that was found damaged, dropped and made again.
        if self.writes and (self._safely(write) or (self.writes and self._safely(write))):
            RowCache.kept += len(told)

    def _safely(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        try:
            self.db = self.db or connect(self.file)
            with self.db:
                work(self.db)
            return True
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return False

    def _give_up(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if self.db is not None and code not in DAMAGED:
            self.writes = False
            say(
                f"{self.file} cannot be written ({error}); this run goes on, but its further rows are not kept"
            )
            return
        with suppress(sqlite3.Error):
            if self.db is not None:
                self.db.close()
        self.db = None
        try:
            if code not in DAMAGED:
                raise OSError(str(error))
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.file}{suffix}").unlink(missing_ok=True)
            say(f"{self.file} is damaged ({error}); it is dropped and made again")
        except OSError as reason:
            self.reads = self.writes = False
            say(f"{self.file} cannot be opened ({reason}); this run goes on, but keeps no rows")


def say(message: str) -> None:
    """One line for whoever runs the stage."""
    print(f"store: {message}", file=sys.stderr, flush=True)


def drop_oldest(db: sqlite3.Connection, share: float) -> None:
    """Delete this share of the rows, those first that were used longest ago."""
    count = db.execute("SELECT count(*) FROM rows").fetchone()[0]
    db.execute(
        "DELETE FROM rows WHERE key IN (SELECT key FROM rows ORDER BY day, key LIMIT ?)",
        (int(count * share) + 1,),
    )
