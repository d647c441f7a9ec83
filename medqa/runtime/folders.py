"""Folders that are complete or absent: written beside their path, synced to the disk, then moved there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """An empty folder to write into; it replaces `out` when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch, out.name)
        folder.mkdir()
        yield folder
        atomic_move(folder, out)


def atomic_move(folder: Path, out: Path) -> None:
    """Move a finished folder to `out`, in place of what is there, when all of it has reached the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(folder, out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
