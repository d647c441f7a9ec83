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

from medqa import model
from medqa.records import Example, Pair
from medqa.runtime import distributed, folders, hashing, locks
from medqa.runtime.environment import scratch_root

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
    files = {name: Path(sys.modules[name].__file__) for name in sorted(names - {"medqa.runtime"})}
    return {
        name: hashing.dvc_hash(file.parent if file.name == "__init__.py" else file)
        for name, file in files.items()
    }


def fingerprint(
    params: dict[str, Any],
    dtype: str,
    seed: int,
    rows: Sequence[Example] | Sequence[Pair],
    inputs: Sequence[Path],
) -> str:
    """A hash of all that training depends on: code, libraries, device, parameters, rows and input models."""
    # Of the device the kind alone: each process has its own, and all need the same fingerprint.
    environment = [model.device().split(":")[0], distributed.world_size(), *map(version, LIBRARIES)]
    parts = [
        params,
        [dtype, seed],
        environment,
        code_hashes(),
        [hashing.dvc_hash(path) for path in inputs],
        [vars(row) for row in rows],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def checkpoint_folder(name: str) -> Iterator[Path]:
    """The folder for the checkpoints of the run with fingerprint `name`; it is removed after success.

    The trainer writes to `work` in it. If another process trains the same now, this is a temporary folder.
    """
    if distributed.rank():
        yield distributed.broadcast(root())
        return
    folder, lock = root() / name, root() / f"{name}.lock"
    if (holder := locks.take(lock)) is not None:
        print(
            f"checkpoints: process {holder} trains the same; this run keeps none", file=sys.stderr, flush=True
        )
        with tempfile.TemporaryDirectory(dir=root(), prefix="alone-") as temporary:
            yield distributed.broadcast(Path(temporary))
        return
    try:
        shutil.rmtree(folder / "work", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        yield distributed.broadcast(folder)
        shutil.rmtree(folder)
    finally:
        shutil.rmtree(folder / "work", ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # if it holds no checkpoint
        locks.release(lock)


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
    (written / CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
    checkpoint = folder / f"step-{step:08}"
    folders.atomic_move(written, checkpoint)
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
