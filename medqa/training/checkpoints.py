"""Checkpoints of training on the disk: complete or absent, and gone after success.

Each training run has a folder, named by a fingerprint of all that it depends on. An interrupted run goes on
from the latest checkpoint there, with the same weights, optimiser, data order and random state.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medqa.records import Example, Pair
from medqa.runtime import hashing, locks
from medqa.runtime.environment import scratch_root
from medqa.runtime.folders import atomic_folder

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "gptqmodel")
CHECKSUMS = "checksums.json"


def root() -> Path:
    """The folder of all checkpoints of this machine, or of this repository."""
    return scratch_root() / "checkpoints"


def code_hashes() -> dict[str, str]:
    """The hash of each module of `medqa` that this process has imported, and of each package as a whole.

    Without `medqa.runtime`, on which no result depends. These are the files that dvc.yaml names for a stage.
    """
    names = {".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("medqa.")}
    files = {name: Path(sys.modules[name].__file__ or "") for name in sorted(names - {"medqa.runtime"})}
    return {
        name: hashing.dvc_hash(file.parent if file.name == "__init__.py" else file)
        for name, file in files.items()
    }


def fingerprint(settings: Sequence[Any], rows: Sequence[Example | Pair], inputs: Sequence[Path]) -> str:
    """A hash of all that training depends on: code, libraries, settings, rows and input models."""
    libraries, hashes = [*map(version, LIBRARIES)], [code_hashes(), *map(hashing.dvc_hash, inputs)]
    text = json.dumps([settings, libraries, hashes, [vars(row) for row in rows]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def checkpoint_folder(name: str) -> Iterator[Path]:
    """The folder for the checkpoints of the run with fingerprint `name`; it is removed after success.

    The trainer writes to `work` in it. If another process trains the same now, this is a temporary folder.
    """
    folder, lock = root() / name, root() / f"{name}.lock"
    if (holder := locks.take(lock)) is not None:
        message = f"checkpoints: process {holder} trains the same; this run keeps none"
        print(message, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=root(), prefix="alone-") as temporary:
            yield Path(temporary)
        return
    try:
        _remove_unfinished(folder)
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)
    finally:
        _remove_unfinished(folder)
        with suppress(OSError):
            folder.rmdir()  # if it holds no checkpoint
        locks.release(lock)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob("*"):
        if not path.name.startswith("step-"):
            shutil.rmtree(path, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The latest intact checkpoint; a damaged one is removed with a message."""
    for checkpoint in sorted(folder.glob("step-*"), reverse=True):
        if _intact(checkpoint):
            return checkpoint
        print(f"checkpoints: {checkpoint} is damaged; it is dropped", file=sys.stderr, flush=True)
        shutil.rmtree(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """The training step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def store(written: Path, folder: Path, step: int) -> None:
    """Move what the trainer has written into `folder` as the checkpoint of a step, and remove older ones."""
    files = [path for path in sorted(written.rglob("*")) if path.is_file()]
    checksums = {path.relative_to(written).as_posix(): hashing.sha256_of(path) for path in files}
    checkpoint = folder / f"step-{step:08}"
    with atomic_folder(checkpoint) as new:
        (new / CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
        for path in written.iterdir():
            path.rename(new / path.name)
    written.rmdir()
    for old in folder.glob("step-*"):
        if old != checkpoint:
            shutil.rmtree(old)


def _intact(checkpoint: Path) -> bool:
    try:
        checksums = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(checksums) and all(
            hashing.sha256_of(checkpoint / name) == checksum for name, checksum in checksums.items()
        )
    except (OSError, ValueError, AttributeError):
        return False
