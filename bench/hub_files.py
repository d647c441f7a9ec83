"""What the small Hub of `bench.local_hub` serves: repos, their files, and the entries of its listings."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

BIG = (".safetensors", ".bin", ".parquet")


@dataclass
class Repo:
    """One commit of a repo: its files or their paths, the branches that name it, the token that it needs."""

    files: dict[str, bytes | Path]
    commit: str = "c" * 40
    branches: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    private: bool = False


@dataclass
class Hub:
    """What the server serves, and the requests that it got.

    `cut`, `spoil` and `fail` count faults down by file name (`fail`: by path). A cut ends the connection
    halfway, with a reset if `reset` is set.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut: Counter = field(default_factory=Counter)
    spoil: Counter = field(default_factory=Counter)
    fail: Counter = field(default_factory=Counter)
    reset: bool = False
    writer: str = ""  # the token that may create repos and upload to them
    big_files: dict[str, bytes] = field(default_factory=dict)  # uploaded, by sha256

    def ranges(self, method: str, name: str) -> list[str | None]:
        """The Range headers of the requests for a file, in order."""
        return [span for verb, path, span in self.log if verb == method and path.endswith(name)]


def sha256(data: bytes) -> str:
    """The digest by which the Hub identifies a big file."""
    return hashlib.sha256(data).hexdigest()


def size(data: bytes | Path) -> int:
    """The size of a file in bytes."""
    return data.stat().st_size if isinstance(data, Path) else len(data)


@cache
def _path_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(name: str, data: bytes | Path) -> dict:
    """What the Hub's listing says of a file: type, path, size, and digests."""
    listed = {"type": "file", "path": name, "size": size(data)}
    if isinstance(data, Path) and name.endswith(BIG):
        return listed | _big(_path_sha256(data), listed["size"])
    data = data.read_bytes() if isinstance(data, Path) else data
    listed["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return listed | _big(sha256(data), len(data)) if name.endswith(BIG) else listed


def _big(digest: str, size: int) -> dict:
    return {"oid": "0" * 40, "lfs": {"oid": digest, "size": size, "pointerSize": 134}}
