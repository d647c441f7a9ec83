"""Processes that train together: what they share and exchange. Ray Train starts them."""

import os
from typing import TypeVar

Value = TypeVar("Value")


def rank() -> int:
    """The number of this process among those that train together, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def broadcast(value: Value) -> Value:
    """Rank 0's value, in every process. Each process has to call this, and waits for rank 0."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _join()
    return broadcast_object_list([value])[0]


def gather(values: list[Value]) -> list[Value]:
    """The values of all processes in one list, in every process. Each process has to call this."""
    if world_size() == 1:
        return values
    from accelerate.utils import gather_object

    _join()
    return gather_object(values)


def _join() -> None:
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
