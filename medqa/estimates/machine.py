"""What there is on this machine: memory, disk, a GPU, and how fast it multiplies matrices."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GB = 1e9
CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container
SIZE = {"cpu": 1024, "cuda": 8192}  # rows of the matrices
LEAST_SECONDS = 0.5


@dataclass(frozen=True)
class Machine:
    """The device that stages use, and sizes in GB."""

    device: str  # the name of the GPU, or cpu
    memory_gb: float
    gpu_gb: float  # 0 without a GPU
    disk_gb: float  # that are free


def inspect(folder: Path = Path(".")) -> Machine:
    """This machine, without loading torch."""
    name, gpu_gb = _gpu()
    return Machine(name, _memory_gb(), gpu_gb, shutil.disk_usage(folder).free / GB)


def _memory_gb() -> float:
    size = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        size = min(size, float(CGROUP.read_text(encoding="utf-8")))
    return size / GB


def _gpu() -> tuple[str, float]:
    """The first GPU that the driver names, if the installed torch can use it; else the processor."""
    with suppress(PackageNotFoundError):
        if "+cpu" in version("torch") or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            return "cpu", 0.0
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        name, _, mebibytes = done.stdout.splitlines()[0].rpartition(",")
        return name.strip(), float(mebibytes) * 2**20 / GB
    return "cpu", 0.0


def products_per_second(dtype: str) -> float:
    """Operations per second of a matrix product in this dtype on the device, in a second where it is idle.

    In float32 on a processor without instructions for the dtype, where stages compute so too.
    """
    import torch

    from medqa.model import multiplies_bfloat16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not (dtype == "bfloat16" and multiplies_bfloat16(device)):
        dtype = "float32"
    size = SIZE[device]
    matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    started, count = 0.0, -1  # the first product also loads the library
    while not started or clock(device) - started < LEAST_SECONDS:
        (matrix @ matrix)[0, 0].item()  # waits for the product
        started, count = started or clock(device), count + 1
    return 2.0 * size**3 * max(1, count) / (clock(device) - started)


def clock(device: str) -> float:
    """Seconds: of a GPU as they pass; of a processor those of its threads, without the rest of the load."""
    import torch

    return time.monotonic() if device == "cuda" else time.process_time() / torch.get_num_threads()
