"""What all benchmarks share: alternating runs, medians with their spread, peak memory, and the machine."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

OURS = "medqa"  # the contender that the others are compared with
LIBRARIES = ("torch", "transformers", "trl", "peft", "gptqmodel", "dvc")
MB = 1e6

# Does all the work once and returns its amount (tokens, rows).
Run = Callable[[], float]


def alternate(contenders: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """The rates (work per second) of each contender over the rounds, in which they take turns."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            amount = run()
            rates[name].append(amount / (time.perf_counter() - started))
    return rates


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def speedups(rates: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How many times as fast as each peer OURS was, per round: what slows a whole round cancels out."""
    ours = rates[OURS]
    return {
        name: spread([our_rate / rate for our_rate, rate in zip(ours, peer_rates, strict=True)])
        for name, peer_rates in rates.items()
        if name != OURS
    }


def child(*arguments: str, **options: Any) -> str:
    """The output of this Python with these arguments. Raises RuntimeError with its errors if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def alone(stage: str, workload: str, contender: str, rows: int) -> dict[str, float]:
    """The seconds and the peak memory in MB of one run in a process of its own."""
    output = child("-m", "bench", "--alone", stage, workload, contender, str(rows))
    return json.loads(output.strip().splitlines()[-1])


def peak() -> float:
    """The peak memory of this process in MB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB
    # ru_maxrss would include the memory of the process that started this one.
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / MB


def machine() -> dict[str, Any]:
    """The machine and the versions behind the numbers."""
    import psutil
    import torch

    names = [line for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def has_bfloat16() -> bool:
    """Whether the processor or GPU multiplies bfloat16 in hardware; if not, float32 is faster."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # torch only says whether bfloat16 can be computed at all.
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
