"""What every benchmark shares: alternating runs, medians with their spread, peak memory, and the machine."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

FAST = "medqa"  # the contender that the others are compared with
LIBRARIES = ("torch", "transformers", "trl", "peft", "gptqmodel", "dvc")
MB = 1e6

# Does all the work once and returns how much it was (tokens, rows).
Run = Callable[[], float]


def alternate(contenders: Mapping[str, Run], runs: int) -> dict[str, list[float]]:
    """The rates (work a second) of each contender over `runs` rounds, in which they take turns."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            started = time.perf_counter()
            done = run()
            rates[name].append(done / (time.perf_counter() - started))
    return rates


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How many times as fast as each other contender FAST was: of each round, so that what slows a round
    cancels.
    """
    fast = rates[FAST]
    return {
        name: spread([one / other for one, other in zip(fast, others, strict=True)])
        for name, others in rates.items()
        if name != FAST
    }


def child(*command: str, **given: Any) -> str:
    """What this Python prints for a command. Raises RuntimeError with what it said of it if it fails."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, **given)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def alone(stage: str, load: str, contender: str, rows: int) -> dict[str, float]:
    """The seconds and the peak memory in MB of one run in a process of its own."""
    told = child("-m", "bench", "--alone", stage, load, contender, str(rows))
    return json.loads(told.strip().splitlines()[-1])


def peak() -> float:
    """The most memory that this process ever held, in MB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        import resource

        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024)
            / MB
        )
    # ru_maxrss would count the memory of the process that started this one.
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / MB


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    import psutil
    import torch

    names = [line for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": bfloat16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def bfloat16() -> bool:
    """Whether the processor, or the GPU, multiplies bfloat16 itself; without that it is slower than float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # torch tells only whether it can be computed at all.
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
