"""Folders that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REASON = "why-empty.txt"


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A new folder that replaces `out` when the block ends and all of it has reached the disk."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as parent:
        folder = Path(parent, out.name)
        folder.mkdir()
        yield folder
        for path in (*folder.rglob("*"), folder):
            sync(path)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
        sync(out.parent)


def write_empty(out: Path, reason: str) -> None:
    """Write a folder that holds nothing but the reason for that: DVC warns of folders without a file."""
    with atomic_folder(out) as folder:
        (folder / REASON).write_text(f"{reason}\n", encoding="utf-8")


def is_empty(folder: Path) -> bool:
    """Whether a folder is there and holds nothing, or nothing but the reason for that."""
    return folder.is_dir() and all(path.name == REASON for path in folder.iterdir())


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
