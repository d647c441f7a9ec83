"""`medqa cache`: size, hits and age of the kept rows by model; prunes, verifies and empties them."""

import argparse
import re
import shutil
import sqlite3
import subprocess
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from medqa.runtime import locks, row_cache
from medqa.runtime.environment import project
from medqa.runtime.errors import UserError
from medqa.training import checkpoints

DAY = 86400


def add(parser: argparse.ArgumentParser) -> None:
    """The options; without one, the rows are shown."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--prune-older", type=int, metavar="DAYS", help="drop what was not used for so many days"
    )
    what.add_argument(
        "--prune-unneeded", action="store_true", help="drop models that no project names in a dvc.lock"
    )
    what.add_argument(
        "--verify", action="store_true", help="check every row against its sum, and drop what is damaged"
    )
    what.add_argument("--empty", action="store_true", help="drop all rows and all training checkpoints")


def run(options: argparse.Namespace) -> int:
    """Show the store, or do what an option says. Raises UserError for a store that cannot be read."""
    file = row_cache.path()
    if not file.exists():
        print(f"{file}: no row is kept")
        return 0
    try:
        with closing(row_cache.connect(file)) as db:
            return _run(options, db, file)
    except sqlite3.Error as error:
        raise UserError(
            f"{file} cannot be read ({error}); delete it, its rows are made again when needed"
        ) from None


def _run(options: argparse.Namespace, db: sqlite3.Connection, file: Path) -> int:
    before = db.execute("SELECT count(*) FROM rows").fetchone()[0]
    bad = damaged(db) if options.verify else []
    today = int(time.time() // DAY)
    with db:
        db.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in bad])
        if options.prune_older is not None:
            db.execute("DELETE FROM rows WHERE day < ?", (today - options.prune_older,))
            _drop_checkpoints(time.time() - options.prune_older * DAY)
        if options.prune_unneeded:
            db.executemany("DELETE FROM rows WHERE model = ?", [(model,) for model in unneeded(db)])
        if options.empty:
            db.execute("DELETE FROM rows")
            _drop_checkpoints(float("inf"))
        for table in ("models", "users"):
            db.execute(f"DELETE FROM {table} WHERE model NOT IN (SELECT model FROM rows)")
    after = db.execute("SELECT count(*) FROM rows").fetchone()[0]
    if after < before:
        db.execute("VACUUM")
        print(f"{before - after} of {before} rows dropped")
    if options.verify:
        print(f"{before} rows checked, {len(bad)} damaged")
    _show(db, file, today)
    return int(bool(bad))


def damaged(db: sqlite3.Connection) -> list[bytes]:
    """The keys of rows that are not as they were written. Raises sqlite3.DatabaseError if the file itself is
    broken.
    """
    found = [text for (text,) in db.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(found[0])
    return [
        row[0] for row in db.execute("SELECT key, model, value, sum FROM rows") if not row_cache.sound(*row)
    ]


def unneeded(db: sqlite3.Connection) -> list[str]:
    """The models that no project which uses the store needs.

    Of a model whose users are not known (an older store), or not all readable, nobody knows; the latter are
    named. Raises UserError if this project cannot be read.
    """
    users = defaultdict(set)
    for model, user in db.execute("SELECT model, project FROM users"):
        users[model].add(user)
    here = str(project().resolve())
    needs = {here: needed(Path(here))}
    for user in sorted(set().union(*users.values()) - {here}):
        try:
            needs[user] = needed(Path(user))
        except UserError as error:
            print(f"{error}; what it used stays (--prune-older DAYS drops it)")
    known = {model for model, names in users.items() if names <= needs.keys()}
    every = set().union(*needs.values())
    return [model for model in known if not set(model.split("+")) <= every]


def needed(folder: Path) -> set[str]:
    """The hashes in the dvc.lock of a project and of every commit of its branches, tags and experiments.

    Raises UserError if git cannot read it.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        commits = git("log", "--all", "--format=%H", "--", "dvc.lock").split()
        texts = [
            git("show", f"{commit}:./dvc.lock") for commit in commits if git("ls-tree", commit, "dvc.lock")
        ]
        locks = [
            folder / "dvc.lock",
            *folder.glob(".dvc/tmp/exps/*/dvc.lock"),
        ]  # and of runs that have not ended
        texts += [lock.read_text(encoding="utf-8") for lock in locks if lock.is_file()]
    except (subprocess.CalledProcessError, OSError, UnicodeDecodeError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise UserError(f"--prune-unneeded has to read the commits of {folder} with git ({why})") from None
    return {found for text in texts for found in re.findall(r"\b[0-9a-f]{32}(?:\.dir)?", text)}


def _drop_checkpoints(before: float) -> None:
    for folder in checkpoints.root().glob("*/"):
        lock = Path(f"{folder}.lock")
        # One that is being trained is locked.
        if folder.stat().st_mtime < before and locks.take(lock) is None:
            shutil.rmtree(folder)
            locks.release(lock)


def _show(db: sqlite3.Connection, file: Path, today: int) -> None:
    kept = len(list(checkpoints.root().glob("*/step-*")))
    print(
        f"{file}: {row_cache.size(db) / 1e6:.1f} MB of at most {row_cache.LIMIT / 1e6:.0f} MB; training checkpoints: {kept}"
    )
    listed = db.execute(
        "SELECT name, count(*), sum(length(value)), hits, min(day), max(day), rows.model FROM rows "
        "JOIN models USING (model) GROUP BY rows.model ORDER BY name"
    ).fetchall()
    if listed:
        print(f"{'model':24} {'rows':>8} {'MB':>8} {'hits':>8} {'last used, days ago':>20}  content")
    for name, count, length, hits, oldest, newest, model in listed:
        days = f"{today - newest} to {today - oldest}"
        content = " + ".join(part[:8] for part in model.split("+"))
        print(f"{name:24} {count:8} {length / 1e6:8.1f} {hits:8} {days:>20}  {content}")
