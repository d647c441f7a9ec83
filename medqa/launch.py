"""Several processes that train as one: `accelerate launch` starts them, the main one (rank 0) writes what comes out."""

import os
import sys
from typing import Any


def rank() -> int:
    """The number of this process among those that train together; 0 is the main one."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def again(processes: int) -> None:
    """Become `accelerate launch` of this very command in so many processes, unless one is enough or this is theirs."""
    if processes == 1 or "RANK" in os.environ:
        return
    module = sys.modules["__main__"].__spec__.name
    # On machines without a GPU it starts processes only under this name; they find gloo by themselves.
    options = ["--multi_gpu", "--num_machines=1", f"--num_processes={processes}", "--mixed_precision=no"]
    options += ["--dynamo_backend=no", "--main_process_port=0", "--module", module]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *options, *sys.argv[1:]])


def shared(value: Any) -> Any:
    """The main process's value, in every process. All have to ask, and each waits for the main one."""
    if world() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _joined()
    told = [value]
    broadcast_object_list(told)
    return told[0]


def gathered(values: list[Any]) -> list[Any]:
    """The values of all processes strung together, in every process."""
    if world() == 1:
        return values
    from accelerate.utils import gather_object

    _joined()
    return gather_object(values)


def together() -> None:
    """Wait until every process is here."""
    if world() > 1:
        _joined().wait_for_everyone()


def _joined() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
