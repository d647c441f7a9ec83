"""The row cache: every answer and score under a key of all that determines it, so that no work is done twice.

One SQLite file under `environment.scratch_root()`, shared by every run on the machine. Rows are on the disk
when `put` returns. Each row has a checksum: a damaged one is dropped, reported and computed again.
"""

import hashlib
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medqa.runtime.environment import project, scratch_root
from medqa.runtime.sections import ComputeParams

VERSION = 2  # of the file and of the keys: another version is another file
LIMIT = 2 << 30  # bytes: 1.5 million answers of 200 words; a large run has more
DISK_SHARE = 10  # beyond LIMIT, the cache may take one in so many bytes of the free disk
_encode = json.JSONEncoder(allow_nan=False).encode
LOCK_TIMEOUT = 60  # seconds for another process to finish writing
DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SCHEMA = """
CREATE TABLE IF NOT EXISTS models(model TEXT PRIMARY KEY, name TEXT, hits INTEGER);
CREATE TABLE IF NOT EXISTS users(model TEXT, project TEXT, PRIMARY KEY(model, project)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS
    rows(key BLOB PRIMARY KEY, model TEXT, day INTEGER, value BLOB, sum BLOB) WITHOUT ROWID;
"""
# A quarter of the rows, the least recently used ones.
DROP_OLDEST = """
DELETE FROM rows
WHERE key IN (SELECT key FROM rows ORDER BY day, key LIMIT (SELECT count(*) / 4 + 1 FROM rows));
"""


def path() -> Path:
    """The file of this machine's, or of this repository's, row cache."""
    return scratch_root() / "row_cache" / f"rows-{VERSION}.sqlite"


def open_cache(compute: ComputeParams) -> "RowCache | None":
    """The row cache, unless `compute.row_cache` switches it off."""
    return RowCache(path()) if compute.row_cache else None


def limit(file: Path) -> int:
    """Bytes beyond which the least recently used rows of a cache that is there go."""
    return max(LIMIT, shutil.disk_usage(file).free // DISK_SHARE)


def warn(message: str) -> None:
    """Print one line on stderr, for the user who runs the stage."""
    print(f"row cache: {message}", file=sys.stderr, flush=True)


class RowCache:
    """Rows by key. A file that cannot be read or written is warned about once, and never raises."""

    written = 0  # rows that this process has put into any cache
    reused = 0  # rows that this process has read from any cache

    def __init__(self, file: Path, limit: Callable[[Path], int] = limit):
        self.file, self.limit = file, limit
        self.reads = self.writes = True
        self.db: sqlite3.Connection | None = None
        self._transact(lambda db: None)

    def get(self, model: str, name: str, keys: Sequence[bytes]) -> dict[bytes, list[Any]]:
        """The cached rows of these keys. `model` is the hash of the model's content, `name` is for people."""
        rows: dict[bytes, list[Any]] = {}
        damaged: list[bytes] = []

        def select(db: sqlite3.Connection) -> None:
            for key in keys:
                row = db.execute("SELECT key, model, value, sum FROM rows WHERE key = ?", (key,)).fetchone()
                if row and is_sound(*row):
                    rows[key] = json.loads(row[2])
                elif row:
                    damaged.append(key)

        def note_use(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in damaged])
            day = today()
            db.executemany(
                "UPDATE rows SET day = ? WHERE key = ? AND day < ?", [(day, key, day) for key in rows]
            )
            db.execute(
                "INSERT INTO models VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET hits = hits + excluded.hits",
                (model, name, len(rows)),
            )
            db.execute("INSERT OR IGNORE INTO users VALUES (?, ?)", (model, str(project().resolve())))

        if self.reads and not self._transact(select):
            rows.clear()
        RowCache.reused += len(rows)
        if damaged:
            warn(f"{len(damaged)} damaged rows in {self.file} are dropped and made again")
        if self.writes:
            self._transact(note_use)
        return rows

    def put(self, model: str, rows: Mapping[bytes, Sequence[Any]]) -> None:
        """Write rows to the disk. A row with a number that is not finite is left out."""
        values = {}
        for key, row in rows.items():
            with suppress(ValueError):
                values[key] = _encode(row).encode()
        entries = [(key, model, today(), value, checksum(key, model, value)) for key, value in values.items()]

        def write(db: sqlite3.Connection) -> None:
            if size(db) > self.limit(self.file):
                db.execute(DROP_OLDEST)
            db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", entries)

        # The second try is for a file that was found damaged, dropped and made again.
        if self.writes and (self._transact(write) or (self.writes and self._transact(write))):
            RowCache.written += len(entries)

    def _transact(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do some work in one transaction, and return whether it was done."""
        try:
            self.db = self.db or connect(self.file)
            with self.db:
                work(self.db)
            return True
        except (sqlite3.Error, OSError) as error:
            self._recover(error)
            return False

    def _recover(self, error: Exception) -> None:
        """Drop a damaged file; stop writing to, or using at all, one that cannot be written or opened."""
        damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE_CODES
        if self.db and not damaged:
            self.writes = False
            return warn(f"{self.file} cannot be written ({error}); the run goes on, but keeps no further row")
        with suppress(sqlite3.Error):
            if self.db:
                self.db.close()
        self.db = None
        try:
            if not damaged:
                raise OSError(str(error))
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.file}{suffix}").unlink(missing_ok=True)
            warn(f"{self.file} is damaged ({error}); it is dropped and made again")
        except OSError as reason:
            self.reads = self.writes = False
            warn(f"{self.file} cannot be opened ({reason}); this run goes on, but keeps no rows")


def connect(file: Path) -> sqlite3.Connection:
    """Open the file, or make it. Raises sqlite3.Error or OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file, timeout=LOCK_TIMEOUT)
    db.text_factory = lambda text: text.decode(errors="replace")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")  # a commit survives a loss of power
    db.executescript(SCHEMA)
    return db


def today() -> int:
    """The day, counted from 1970."""
    return int(time.time() // 86400)


def checksum(key: bytes, model: str, value: bytes) -> bytes:
    """The checksum of a row."""
    return hashlib.sha256(b"%b %b %b" % (key, model.encode(), value)).digest()[:16]


def is_sound(key: Any, model: Any, value: Any, sum_: Any) -> bool:
    """Whether a row is as it was written. A damaged file may return any type."""
    return isinstance(key, bytes) and isinstance(value, bytes) and checksum(key, str(model), value) == sum_


def size(db: sqlite3.Connection) -> int:
    """Bytes in use."""
    pages, unused, width = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - unused) * width
