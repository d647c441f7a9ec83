"""A worker of a Ray cluster: it trains in a temporary folder, and reports to the stage's process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medqa.runtime import distributed, environment, hashing, progress, transfer
from medqa.runtime.errors import UserError
from medqa.training.recorder import Recorder

if TYPE_CHECKING:
    from ray.util.queue import Queue

EVERY_RANK = ("fail", "store_rows")  # messages that not only rank 0 sends
CHUNK = "chunk"  # the message with a part of a folder


@dataclass(frozen=True)
class SentFolder:
    """Stands in a message for the folder whose chunks were sent before it; with its hash."""

    content: str


class RemoteRecorder:
    """The recorder of the stage's process, in a worker: each call is a message, and folders go in chunks."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def __getattr__(self, name: str) -> Callable[..., None]:
        def send(*arguments: Any) -> None:
            if distributed.rank() == 0 or name in EVERY_RANK:
                self.queue.put((name, [self._send(each) for each in arguments]))

        return send

    def _send(self, value: Any) -> Any:
        """The value as it stands in a message; of a folder the chunks are sent first."""
        if not isinstance(value, Path):
            return value
        for chunk in transfer.chunks(value):
            self.queue.put((CHUNK, [chunk]))
        return SentFolder(hashing.dvc_hash(value))


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
        inputs = enumerate(work["inputs"])
        base, *adapters = (transfer.unpack(parcel, folder / f"input-{n}") for n, parcel in inputs)
        parcel = work["checkpoint"]
        checkpoint = transfer.unpack(parcel, folder / "checkpoint") if parcel else None
        try:
            job, attempt = replace(work["job"], base=base), Attempt(folder / "work", checkpoint, recorder)
            work["fit"](job, work["rows"], attempt, *adapters)
        except Exception as error:
            if isinstance(error, UserError):
                cast(Any, recorder).fail(error)
            elif environment.out_of_memory(error):
                cast(Any, recorder).fail(MemoryError(str(error)))
            raise
