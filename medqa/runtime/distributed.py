"""Several processes that train as one: `accelerate launch` starts them, and rank 0 writes the outputs."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

Value = TypeVar("Value")

# Seconds in which the launcher ends this process. It looks every 0.1 s for processes that ended themselves.
PATIENCE = 2.0


def rank() -> int:
    """The number of this process among those that train together, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def relaunch(processes: int) -> bool:
    """Run this command again in several processes, unless one is enough or this is one of them already.

    Returns whether it did, when all have ended. If one fails, it prints why, and this process exits with the
    same code. Raises UserError if a signal ended one, or if there are too few GPUs.
    """
    if processes == 1 or "RANK" in os.environ:
        return False
    import torch

    if 0 < (gpus := torch.cuda.device_count()) < processes:
        raise UserError(
            f"compute.processes = {processes}: to train together each needs a GPU of its own, and there are "
            f"{gpus}; set it to {gpus} for this stage"
        )
    _launch(processes)
    return True


def _launch(processes: int) -> None:
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Accelerate starts several processes only with --multi_gpu. On CPUs, they choose gloo by themselves.
    options = ["--multi_gpu", "--num_machines=1", f"--num_processes={processes}", "--mixed_precision=no"]
    options += ["--dynamo_backend=no", "--main_process_port=0"]
    spec = sys.modules["__main__"].__spec__
    assert spec, "a stage is started with python -m"
    options += ["--module", spec.name, *sys.argv[1:]]
    logging.disable(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(options))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code < 0:
            raise UserError(
                f"signal {-code} ended one of the {processes} processes of compute.processes (9 is what the "
                "system sends when memory runs out); rerun the stage, it goes on from its last checkpoint"
            ) from None
        sys.exit(code)
    except SignalException as error:
        sys.exit(128 + error.sigval)


@contextmanager
def report_peer_failure() -> Iterator[None]:
    """Let a failed peer be reported, not the connection to it that broke: wait for the launcher's signal."""
    try:
        yield
    except RuntimeError:
        if world_size() > 1:
            time.sleep(PATIENCE)
        raise


def broadcast(value: Value) -> Value:
    """Rank 0's value, in every process. Each process has to call this, and waits for rank 0."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _process_group()
    return broadcast_object_list([value])[0]


def gather(values: list[Value]) -> list[Value]:
    """The values of all processes in one list, in every process. Each process has to call this."""
    if world_size() == 1:
        return values
    from accelerate.utils import gather_object

    _process_group()
    return gather_object(values)


def barrier() -> None:
    """Wait until every process has called this."""
    if world_size() > 1:
        _process_group().wait_for_everyone()


def _process_group() -> "PartialState":
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
