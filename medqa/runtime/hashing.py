"""The sha256 of a file, and the hash of a file or a folder as DVC writes it into dvc.lock."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

IGNORE = ".dvcignore"
DEFAULT = (".hg/", ".git/", ".git", ".dvc/")  # what DVC ignores in every project


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dvc_hash(path: Path) -> str:
    """md5 of a file; of a folder, DVC's `.dir` hash over names and contents. Raises FileNotFoundError."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    listed = [{"md5": dvc_hash(name), "relpath": name.relative_to(path).as_posix()} for name in files(path)]
    text = json.dumps(sorted(listed, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def files(folder: Path) -> Iterator[Path]:
    """The files of a folder that DVC sees: all but those that its project's .dvcignore names."""
    ignored = rules(folder)
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not ignored(Path(parent, name), "/")]
        yield from (
            path for name in names if (path := Path(parent, name)).is_file() and not ignored(path, "")
        )


def rules(folder: Path) -> Callable[[Path, str], bool]:
    """Whether DVC ignores what is below a folder; asked with "/" as the second argument for a folder.

    Outside a project, and in a folder that a project ignores whole (as .venv), that is __pycache__ alone.
    """
    from pathspec import PathSpec

    start = Path(os.path.abspath(folder))
    above = [start, *start.parents]
    root = next((parent for parent in above if (parent / ".dvc").is_dir()), None)
    specs = {}
    for parent in above[: above.index(root) + 1] if root else []:
        file = parent / IGNORE
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        specs[parent] = PathSpec.from_lines(
            "gitignore", [*(DEFAULT if parent == root else ()), *map(str.strip, lines)]
        )

    def ignored(path: Path, end: str) -> bool:
        path = Path(os.path.abspath(path))
        for parent in path.parents:  # the nearest .dvcignore that names it decides
            if parent in specs:
                answer = specs[parent].check_file(path.relative_to(parent).as_posix() + end).include
                if answer is not None:
                    return answer
        return False

    if not specs or any(ignored(parent, "/") for parent in above[: above.index(root)]):
        return lambda path, end: path.name == "__pycache__"
    return ignored
