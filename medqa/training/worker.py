"""A worker of a Ray cluster: it trains in a temporary folder, and reports to the stage's process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medqa.runtime import distributed, environment, folders, progress
from medqa.runtime.errors import UserError
from medqa.training.recorder import Recorder

if TYPE_CHECKING:
    from ray.util.queue import Queue

EVERY_RANK = ("fail", "store_rows")  # messages that not only rank 0 sends


class Files(dict[str, bytes]):
    """The files of a folder, on their way to the stage's process."""


class RemoteRecorder:
    """The recorder of the stage's process, in a worker: each call is a message, and folders go as files."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def __getattr__(self, name: str) -> Callable[..., None]:
        def send(*arguments: Any) -> None:
            if distributed.rank() == 0 or name in EVERY_RANK:
                values = [Files(folders.pack(each)) if isinstance(each, Path) else each for each in arguments]
                self.queue.put((name, values))

        return send


def fit(work: dict[str, Any]) -> None:
    """Train in this worker, in a temporary folder."""
    from medqa.training.fine_tuning import Attempt

    os.environ.update(work["environment"])
    # Of the GPUs that this machine's workers see, the one that Ray has reserved for this worker.
    if index := os.environ["ACCELERATE_TORCH_DEVICE"].partition(":")[2]:
        os.environ["LOCAL_RANK"] = index
    environment.set_up()
    recorder = cast(Recorder, RemoteRecorder(work["queue"]))
    with tempfile.TemporaryDirectory(dir=".") as parent, redirect_stderr(progress.LogLines(recorder)):  # type: ignore
        folder = Path(parent).resolve()
        base, *adapters = (get(files, folder / f"input-{n}") for n, files in enumerate(work["inputs"]))
        checkpoint = get(work["checkpoint"], folder / "checkpoint") if work["checkpoint"] else None
        try:
            job, attempt = replace(work["job"], base=base), Attempt(folder / "work", checkpoint, recorder)
            work["fit"](job, work["rows"], attempt, *adapters)
        except Exception as error:
            if isinstance(error, UserError):
                cast(Any, recorder).fail(error)
            elif environment.out_of_memory(error):
                cast(Any, recorder).fail(MemoryError(str(error)))
            raise


def put(folder: Path) -> dict[str, Any]:
    """The files of a folder in Ray's object store, by their paths in it; none is read into memory whole."""
    import numpy as np
    import ray

    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): ray.put(
            np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
        )
        for path in files
    }


def get(files: Mapping[str, Any], folder: Path) -> Path:
    """Write files of Ray's object store into a folder; returns the folder."""
    import ray

    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ray.get(content).tofile(path)
    return folder
