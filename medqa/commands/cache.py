"""`medqa cache`: size, hits and age of the cached rows by model; prunes, verifies and empties them."""

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

DAY = 86400  # seconds


def add(parser: argparse.ArgumentParser) -> None:
    """The options; without one, the rows are shown."""
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--prune-older", type=int, metavar="DAYS", help="drop what was not used for so many days"
    )
    actions.add_argument(
        "--prune-unneeded", action="store_true", help="drop models that no project names in a dvc.lock"
    )
    actions.add_argument(
        "--verify", action="store_true", help="check every row against its checksum, and drop what is damaged"
    )
    actions.add_argument("--empty", action="store_true", help="drop all rows and all training checkpoints")


def run(options: argparse.Namespace) -> int:
    """Do what an option says, then show the row cache. Raises UserError if it cannot be read."""
    file = row_cache.path()
    if not file.exists():
        print(f"{file}: no row is kept")
        return 0
    try:
        with closing(row_cache.connect(file)) as db:
            damaged = _drop(options, db)
            _show(db, file)
            return int(damaged)
    except sqlite3.Error as error:
        raise UserError(
            f"{file} cannot be read ({error}); delete it, its rows are made again when needed"
        ) from None


def _drop(options: argparse.Namespace, db: sqlite3.Connection) -> bool:
    """Drop the rows that an option names; returns whether any row is damaged."""
    before = _count(db)
    damaged = damaged_rows(db) if options.verify else []
    with db:
        db.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in damaged])
        if options.prune_older is not None:
            db.execute("DELETE FROM rows WHERE day < ?", (row_cache.today() - options.prune_older,))
            _drop_checkpoints(time.time() - options.prune_older * DAY)
        if options.prune_unneeded:
            db.executemany("DELETE FROM rows WHERE model = ?", [(model,) for model in unneeded_models(db)])
        if options.empty:
            db.execute("DELETE FROM rows")
            _drop_checkpoints(float("inf"))
        for table in ("models", "users"):
            db.execute(f"DELETE FROM {table} WHERE model NOT IN (SELECT model FROM rows)")
    if (after := _count(db)) < before:
        db.execute("VACUUM")
        print(f"{before - after} of {before} rows dropped")
    if options.verify:
        print(f"{before} rows checked, {len(damaged)} damaged")
    return bool(damaged)


def _count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM rows").fetchone()[0])


def damaged_rows(db: sqlite3.Connection) -> list[bytes]:
    """The keys of the rows that are not as written. Raises sqlite3.DatabaseError if the file is broken."""
    (report,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if report != "ok":
        raise sqlite3.DatabaseError(report)
    rows = db.execute("SELECT key, model, value, sum FROM rows")
    return [row[0] for row in rows if not row_cache.is_sound(*row)]


def unneeded_models(db: sqlite3.Connection) -> list[str]:
    """The models that no project needs any more, of those that used the row cache.

    A model stays where its users are not known, or where one of them cannot be read, which is printed. Raises
    UserError if this project cannot be read.
    """
    users = defaultdict(set)
    for model, user in db.execute("SELECT model, project FROM users"):
        users[model].add(user)
    current = str(project().resolve())
    hashes = {current: needed_hashes(Path(current))}
    for user in sorted(set().union(*users.values()) - {current}):
        try:
            hashes[user] = needed_hashes(Path(user))
        except UserError as error:
            print(f"{error}; what it used stays (--prune-older DAYS drops it)")
    needed = set().union(*hashes.values())
    return [
        model
        for model, projects in users.items()
        if projects <= hashes.keys() and not needed.issuperset(model.split("+"))
    ]


def needed_hashes(folder: Path) -> set[str]:
    """The hashes in a project's dvc.lock, in every commit of its branches, tags and experiments.

    Raises UserError if git cannot read it.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        commits = git("log", "--all", "--format=%H", "--", "dvc.lock").split()
        texts = [
            git("show", f"{commit}:./dvc.lock") for commit in commits if git("ls-tree", commit, "dvc.lock")
        ]
        running = folder.glob(".dvc/tmp/exps/*/dvc.lock")  # experiments that have not ended
        files = [file for file in (folder / "dvc.lock", *running) if file.is_file()]
        texts += [file.read_text(encoding="utf-8") for file in files]
    except (subprocess.CalledProcessError, OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise UserError(f"--prune-unneeded has to read the commits of {folder} with git ({reason})") from None
    return {md5 for text in texts for md5 in re.findall(r"\b[0-9a-f]{32}(?:\.dir)?", text)}


def _drop_checkpoints(before: float) -> None:
    """Delete the checkpoints that are older than a time in seconds; those of a training in progress stay."""
    for folder in checkpoints.root().glob("*/"):
        lock = Path(f"{folder}.lock")
        if folder.stat().st_mtime < before and locks.take(lock) is None:
            shutil.rmtree(folder)
            locks.release(lock)


def _show(db: sqlite3.Connection, file: Path) -> None:
    count = len(list(checkpoints.root().glob("*/step-*")))
    used, limit = row_cache.size(db) / 1e6, row_cache.limit(file) / 1e6
    print(f"{file}: {used:.1f} MB of at most {limit:.0f} MB; training checkpoints: {count}")
    models = db.execute(
        "SELECT name, count(*), sum(length(value)), hits, min(day), max(day), rows.model FROM rows "
        "JOIN models USING (model) GROUP BY rows.model ORDER BY name"
    ).fetchall()
    if models:
        print(f"{'model':24} {'rows':>8} {'MB':>8} {'hits':>8} {'last used, days ago':>20}  content")
    today = row_cache.today()
    for name, count, length, hits, oldest, newest, model in models:
        days = f"{today - newest} to {today - oldest}"
        content = " + ".join(part[:8] for part in model.split("+"))
        print(f"{name:24} {count:8} {length / 1e6:8.1f} {hits:8} {days:>20}  {content}")
