"""One writer at a time: locks that a process holds for its life, and the system lets go when it ends in any
way.
"""

import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_HELD: dict[Path, TextIO] = {}  # an open file holds its lock


def take(path: Path) -> int | None:
    """Take the lock; the id of the process that holds it (0 if it did not say) if another one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                told = file.read().strip()
            return int(told) if told.isdigit() else 0
        # Its last holder may have taken the file away between the two calls; then this is a lock on nothing.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()
    _HELD[path] = file
    with suppress(OSError):  # on a full disk the lock holds, and says nothing
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), b"%d\n" % os.getpid())
    return None


def release(path: Path) -> None:
    """Give the lock back, and take its file away."""
    file = _HELD.pop(path)
    path.unlink(missing_ok=True)
    file.close()


def wait(path: Path, what: str) -> None:
    """Take the lock, waiting for whoever holds it; says so in one line."""
    said = False
    while (holder := take(path)) is not None:
        if not said:
            print(
                f"{what}: process {holder} still writes the same outputs (of a run that was killed, or of another "
                f"terminal); waiting for it to end. To go on from what it has kept, end it: kill {holder}",
                file=sys.stderr,
                flush=True,
            )
            said = True
        time.sleep(0.5)
