"""Hashes of files and folders: the sha256, and DVC's own as in dvc.lock, also on a machine without DVC."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from medqa.runtime.errors import UserError

DEFAULT_PATTERNS = (".hg/", ".git/", ".git", ".dvc/")  # what DVC ignores in every project


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, sha256: str, name: str) -> None:
    """Raise UserError if a file has another sha256 than params.yaml names; `name` is for the message."""
    if (digest := sha256_of(path)) != sha256:
        raise UserError(
            f"{name} has the sha256 {digest}, params.yaml names {sha256}; correct the one that is wrong"
        )


def dvc_hash(path: Path) -> str:
    """md5 of a file; of a folder, DVC's `.dir` hash over names and contents. Raises FileNotFoundError."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    entries = [{"md5": dvc_hash(file), "relpath": file.relative_to(path).as_posix()} for file in files(path)]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def files(folder: Path) -> Iterator[Path]:
    """The files of a folder that DVC sees: all but those that the project's .dvcignore files name."""
    ignored = _ignore_rules(folder)
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not ignored(Path(parent, name), "/")]
        paths = (Path(parent, name) for name in names)
        yield from (path for path in paths if path.is_file() and not ignored(path, ""))


def _ignore_rules(folder: Path) -> Callable[[Path, str], bool]:
    """The function of a path below a folder, and "/" if it is a folder, that decides whether DVC ignores it.

    Outside a project, and in a folder that a project ignores as a whole (such as .venv), __pycache__ alone is
    ignored.
    """
    from pathspec import PathSpec

    parents = [Path(os.path.abspath(folder)), *Path(os.path.abspath(folder)).parents]
    root = next((parent for parent in parents if (parent / ".dvc").is_dir()), None)
    above = parents[: parents.index(root) + 1] if root else []
    specs = {}
    for parent in above:
        file = parent / ".dvcignore"
        patterns = map(str.strip, file.read_text(encoding="utf-8").splitlines()) if file.is_file() else ()
        defaults = DEFAULT_PATTERNS if parent == root else ()
        specs[parent] = PathSpec.from_lines("gitignore", [*defaults, *patterns])

    def ignored(path: Path, suffix: str) -> bool:
        path = Path(os.path.abspath(path))
        for parent in path.parents:  # the nearest .dvcignore that names the path decides
            if parent in specs:
                include = specs[parent].check_file(path.relative_to(parent).as_posix() + suffix).include
                if include is not None:
                    return include
        return False

    if not specs or any(ignored(parent, "/") for parent in above[:-1]):
        return lambda path, suffix: path.name == "__pycache__"
    return ignored
