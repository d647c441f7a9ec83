"""Several processes that train as one: `accelerate launch` starts them, the main one (rank 0) writes what
comes out.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medqa.runtime.errors import UserError

PATIENCE = (
    2.0  # seconds for the launcher to end the others; it looks every 0.1 s which have ended by themselves
)


def rank() -> int:
    """The number of this process among those that train together; 0 is the main one."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def relaunch(processes: int) -> bool:
    """Run this very command in so many processes to their end, unless one is enough or this is one of them.

    Returns whether it did. Where one of them fails, this process leaves with its exit code; it has said why.
    Raises UserError where a signal ended one, and where there are GPUs, but too few.
    """
    if processes == 1 or "RANK" in os.environ:
        return False
    import torch

    if 0 < (gpus := torch.cuda.device_count()) < processes:
        raise UserError(
            f"compute.processes = {processes}: to train together each needs a GPU of its own, and there are {gpus}; "
            f"set it to {gpus} for this stage"
        )
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Without a GPU, too, it starts several processes only under this name; they find gloo by themselves.
    options = ["--multi_gpu", "--num_machines=1", f"--num_processes={processes}", "--mixed_precision=no"]
    options += [
        "--dynamo_backend=no",
        "--main_process_port=0",
        "--module",
        sys.modules["__main__"].__spec__.name,
    ]
    logging.disable(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args([*options, *sys.argv[1:]]))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code < 0:
            raise UserError(
                f"signal {-code} ended one of the {processes} processes of compute.processes (9 is what the system "
                "sends when memory runs out); rerun the stage, it goes on from its last checkpoint"
            ) from None
        sys.exit(code)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    return True


@contextmanager
def report_peer_failure() -> Iterator[None]:
    """Where a connection to another process breaks, let that one's end be told of: the launcher then ends
    this one.
    """
    try:
        yield
    except RuntimeError:
        if world_size() > 1:
            time.sleep(PATIENCE)
        raise


def broadcast(value: Any) -> Any:
    """The main process's value, in every process. All have to ask, and each waits for the main one."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _joined()
    told = [value]
    broadcast_object_list(told)
    return told[0]


def gather(values: list[Any]) -> list[Any]:
    """The values of all processes strung together, in every process."""
    if world_size() == 1:
        return values
    from accelerate.utils import gather_object

    _joined()
    return gather_object(values)


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        _joined().wait_for_everyone()


def _joined() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
