"""A process that computes rows for `Workers`, from its start to its end."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

from medqa.engines.base import Engine
from medqa.runtime.environment import set_up
from medqa.runtime.errors import UserError


def start(
    rank: int, processes: int, start_engine: Callable[[], Engine]
) -> tuple[SpawnProcess, connection.Connection]:
    """Start the process of this rank, one of so many; the process and the pipe to it."""
    import torch

    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // processes)
    near, far = context.Pipe()
    arguments = (far, start_engine, device_environment(rank), threads)
    process = context.Process(target=_serve, args=arguments, daemon=True, name=f"medqa worker {rank}")
    with _uninterrupted():
        process.start()
    # Only the worker has its end open, so that the pipe ends when the worker does.
    far.close()
    return process, near


def device_environment(rank: int) -> dict[str, str]:
    """The environment variables that let a worker see its own GPU alone; none on a machine without GPUs."""
    import torch

    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(number) for number in range(count)]
    return {"CUDA_VISIBLE_DEVICES": devices[rank % count].strip()} if count else {}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process that starts within it never sees Ctrl-C, which a terminal sends to all processes."""
    resource_tracker.ensure_running()  # its own start would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    pipe: connection.Connection, start_engine: Callable[[], Engine], device: dict[str, str], threads: int
) -> None:
    """Run a worker: calls come through the pipe and their rows or errors go back, until the pipe ends."""
    # The environment has to be set before CUDA is looked for.
    os.environ.update(device)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up()
    import torch

    torch.set_num_threads(threads)
    engine: Engine | None = None
    while True:
        try:
            operation, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            engine = engine or start_engine()
            answer: Any = list(getattr(engine, operation)(*arguments))
        except UserError as error:
            answer = error
        except Exception:
            # Not every error can be pickled; what matters is where it came from.
            answer = RuntimeError(f"in a process of compute.processes:\n{traceback.format_exc()}")
        pipe.send(answer)


def _end_with_parent() -> None:
    # A killed main process cannot end its workers, and one that computes a piece reads no pipe.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
