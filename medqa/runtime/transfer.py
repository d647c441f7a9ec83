"""Folders on their way to another machine: in chunks, of which few are in memory, and checked by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medqa.runtime import hashing
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from ray import ObjectRef

CHUNK = 16 << 20  # bytes of a file that are in memory at once
Chunk = tuple[str, bytes]  # a file's path in its folder, and the bytes to append to it


@dataclass(frozen=True)
class Parcel:
    """A folder in Ray's object store, which moves to the disk what it has no room for."""

    content: str  # the folder's hash (hashing.dvc_hash)
    chunks: tuple[tuple[str, ObjectRef[bytes]], ...]


def pack(folder: Path) -> Parcel:
    """Put a folder into the object store; it stays there as long as the parcel does."""
    import ray

    return Parcel(hashing.dvc_hash(folder), tuple((name, ray.put(part)) for name, part in chunks(folder)))


def unpack(parcel: Parcel, folder: Path) -> Path:
    """Write a parcel into a folder, and return it. Raises UserError if its content is another one."""
    import ray

    write(((name, ray.get(part)) for name, part in parcel.chunks), folder)
    return check(folder, parcel.content)


def chunks(folder: Path) -> Iterator[Chunk]:
    """The files of a folder in chunks of up to CHUNK bytes; an empty file has one."""
    for path in sorted(hashing.files(folder)):
        with path.open("rb") as stream:
            name, part = path.relative_to(folder).as_posix(), stream.read(CHUNK)
            yield name, part
            while part := stream.read(CHUNK):
                yield name, part


def write(parts: Iterable[Chunk], folder: Path) -> None:
    """Append chunks to the files of a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(part)


def check(folder: Path, content: str) -> Path:
    """The folder, if it has this hash (hashing.dvc_hash). Raises UserError if it arrived damaged."""
    if hashing.dvc_hash(folder) != content:
        raise UserError(f"{folder} arrived with another content than it was sent with; rerun the stage")
    return folder
