"""Hashes of files and folders: DVC's own, as it writes them into dvc.lock, and the sha256."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dvc_hash(path: Path) -> str:
    """md5 of a file; of a folder, DVC's `.dir` hash over names and contents. Raises FileNotFoundError.

    What the project's .dvcignore names is no part of it. Outside a project, and in a folder that a project
    ignores as a whole (such as .venv), __pycache__ alone is left out.
    """
    from dvc.fs import LocalFileSystem
    from dvc.ignore import DvcIgnoreFilter
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB

    full, fs = Path(os.path.abspath(path)), LocalFileSystem()
    root = next((str(folder) for folder in full.parents if (folder / ".dvc").is_dir()), None)
    ignore: Any = DvcIgnoreFilter(fs, root) if root else None
    if ignore is None or ignore.is_ignored_dir(str(full)):
        ignore = _IgnoreBytecode()
    _, _, hashed = build(HashFileDB(fs, ""), str(full), fs, "md5", ignore=ignore, dry_run=True)
    return str(hashed.hash_info.value)


class _IgnoreBytecode:
    """The part of DVC's ignore filter that hashing uses."""

    def walk(self, fs: Any, path: str, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, names in fs.walk(path, **options):
            folders[:] = [name for name in folders if name != "__pycache__"]
            yield folder, folders, names
