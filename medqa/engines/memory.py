"""Whether a model fits into the memory that is free on the device of this process."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

MEMINFO = Path("/proc/meminfo")  # of Linux: elsewhere nothing is known about the free memory of a processor
GB = 1e9

Result = TypeVar("Result")


def in_room(start: Callable[[], Result], model_dir: Path, dtype: str) -> Result:
    """What `start` makes of a model. Raises MemoryError before that if the model cannot fit.

    A process that takes more memory than there is would be ended by the system, without a word.
    """
    need, free = needed_bytes(model_dir, dtype), free_bytes()
    if free is not None and need > free:
        raise MemoryError(f"it needs about {need / GB:.1f} GB, and {free / GB:.1f} GB are free")
    return start()


def needed_bytes(model_dir: Path, dtype: str) -> int:
    """The size of the weights in memory, with quantised layers made plain, from the sizes of the files."""
    from medqa import hub

    folder = hub.local_path(model_dir)
    size = sum(file.stat().st_size for file in folder.glob(hub.WEIGHTS))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = (config.get("quantization_config") or {}).get("bits", 16)
    return size * (32 if dtype == "float32" else 16) // stored


def free_bytes() -> int | None:
    """The free memory of the GPU, or of the machine where there is none; None if it is not known."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    with suppress(OSError):
        for line in MEMINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None
