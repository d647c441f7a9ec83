"""The hash of a file or a folder, as DVC writes it into dvc.lock."""

import hashlib
import json
from pathlib import Path


def of(path: Path) -> str:
    """md5 of a file; of a folder, DVC's `.dir` hash over names and contents. Raises FileNotFoundError."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    files = sorted(name for name in path.rglob("*") if name.is_file() and "__pycache__" not in name.parts)
    listed = [{"md5": of(name), "relpath": name.relative_to(path).as_posix()} for name in files]
    text = json.dumps(sorted(listed, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"
