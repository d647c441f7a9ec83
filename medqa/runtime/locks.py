"""Locks that one process holds for its life: the system releases them however it ends, also by a kill."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_LOCKS: dict[Path, FileLock] = {}  # those that this process holds


def take(path: Path) -> int | None:
    """Take the lock; the id of the process that holds it (0 if unknown) where another one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        return int(holder) if holder.isdigit() else 0
    _LOCKS[path] = lock
    with suppress(OSError):  # a full disk: the lock holds, but does not name its holder
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
    return None


def release(path: Path) -> None:
    """Release the lock, and delete its file: filelock takes no lock on a file that has been deleted."""
    path.unlink(missing_ok=True)
    _LOCKS.pop(path).release()


def wait(path: Path, name: str) -> None:
    """Take the lock. If another process holds it, print so once, and wait for its end."""
    if (holder := take(path)) is None:
        return
    print(
        f"{name}: process {holder} still writes the same outputs (of a run that was killed, or of another "
        f"terminal); waiting for it to end. To go on from what it has kept, end it: kill {holder}",
        file=sys.stderr,
        flush=True,
    )
    while take(path) is not None:
        time.sleep(0.5)
