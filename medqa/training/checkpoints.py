"""Checkpoints of training: whole or not at all, of one fingerprint of all that training depends on, gone
after success.

What the trainer has written beside is summed, brought to the disk, and moved into place. An interrupted run
goes on from the last one with the same weights, optimiser, data order and random state.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medqa.runtime import distributed, hashing, locks
from medqa.runtime.environment import scratch_root
from medqa.runtime.fields import Section

CODE = ("chat", "dpo.py", "hub.py", "jsonl.py", "model.py", "prompts", "records", "sft.py", "training")
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "gptqmodel")
SUMS = "sums.json"


def root() -> Path:
    """Where the checkpoints of this machine, or of this repository, are."""
    return scratch_root() / "checkpoints"


def fingerprint(params: Section, dtype: str, seed: int, rows: Sequence[Any], inputs: Sequence[Path]) -> str:
    """The name of all that a training run depends on: code, libraries, device, parameters, rows and models."""
    from medqa import model

    here = Path(__file__).parent.parent
    told = [
        type(params).__name__,
        params.model_dump(),
        # Of the device the kind alone: each process has its own, and all have to come to the same name.
        [dtype, seed, model.device().split(":")[0], distributed.world_size()],
        [version(name) for name in LIBRARIES],
        [hashing.dvc_hash(here / name) for name in CODE],
        [hashing.dvc_hash(path) for path in inputs],
        [astuple(row) for row in rows],
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def folder(name: str) -> Iterator[tuple[Path, Path]]:
    """The folder of one fingerprint, and an empty one in it for the trainer; both are gone after success.

    If another run, in another folder, trains the very same now, this one keeps its checkpoints to itself.
    """
    if distributed.rank():
        yield distributed.broadcast(None)
        return
    kept, lock = root() / name, root() / f"{name}.lock"
    if (holder := locks.take(lock)) is not None:
        print(
            f"checkpoints: process {holder} trains the same; this run keeps none", file=sys.stderr, flush=True
        )
        with tempfile.TemporaryDirectory(dir=root(), prefix="alone-") as alone:
            yield distributed.broadcast((Path(alone), Path(alone)))
        return
    work = kept / "work"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield distributed.broadcast((kept, work))
        shutil.rmtree(kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            kept.rmdir()  # without a checkpoint in it
        locks.release(lock)


def last(kept: Path) -> Path | None:
    """The newest checkpoint that is as it was written; one that is not is dropped and said."""
    for found in sorted(kept.glob("step-*"), reverse=True):
        if _sound(found):
            return found
        print(f"checkpoints: {found} is damaged; it is dropped", file=sys.stderr, flush=True)
        shutil.rmtree(found)
    return None


def keep(made: Path, kept: Path, step: int) -> None:
    """Move a finished checkpoint into place, and drop the one before it."""
    sums = {
        path.relative_to(made).as_posix(): _sum(path) for path in sorted(made.rglob("*")) if path.is_file()
    }
    (made / SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    for path in [*made.rglob("*"), made]:
        sync(path)
    place = kept / f"step-{step:08}"
    shutil.rmtree(place, ignore_errors=True)
    os.rename(made, place)
    sync(kept)
    for other in kept.glob("step-*"):
        if other != place:
            shutil.rmtree(other)


def saver(kept: Path, minutes: float) -> Any:
    """A trainer callback that keeps a checkpoint each time so many minutes of training have passed."""
    from transformers import TrainerCallback

    class Saver(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.since = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            due = distributed.broadcast(time.monotonic() - self.since >= 60 * minutes)
            # After the last step the adapter itself is saved.
            control.should_save = due and state.global_step < state.max_steps

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            distributed.barrier()  # each process has written its random state
            if distributed.rank() == 0:
                keep(Path(args.output_dir, f"checkpoint-{state.global_step}"), kept, state.global_step)
            self.since = time.monotonic()

    return Saver()


def _sound(found: Path) -> bool:
    try:
        sums = json.loads((found / SUMS).read_text(encoding="utf-8"))
        return bool(sums) and all(_sum(found / name) == value for name, value in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
