"""What each finished stage cost on this machine: one line of JSON per run, which `medqa check` reads."""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from medqa.runtime.environment import scratch_root
from medqa.runtime.progress import Bar
from medqa.runtime.row_cache import RowCache

LIMIT = 4 << 20  # bytes; beyond it the older half of the lines goes
GB = 1e9
ROW_SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Measurement:
    """One run of a stage that ended well."""

    stage: str  # as DVC calls it, such as evaluate@sft
    device: str  # the name of the GPU, or cpu
    seconds: float
    row_seconds: float  # of them, what progress bars counted: these grow with the rows
    peak_gb: float  # of the machine's memory
    gpu_gb: float  # of the GPU's memory; 0 without a GPU
    reused: float  # share of the rows that came from the row cache
    skipped: float  # share of the training steps that a checkpoint had done before
    rows: dict[str, int]  # of the files of rows, by the option that names each
    params: dict[str, Any]  # all of params.yaml
    day: float  # seconds since 1970


@dataclass(frozen=True)
class Usage:
    """What a process has used of its machine."""

    device: str  # the name of the GPU, or cpu
    peak_gb: float  # of the machine's memory
    gpu_gb: float  # of the GPU's memory; 0 without a GPU


NOTED: list[Usage] = []  # of workers that did the work of this process


def path() -> Path:
    """The file of this repository's measurements."""
    return scratch_root() / "measurements.jsonl"


def peak_gb() -> float:
    """The peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of kilobytes


def measure(stage: str, seconds: float, options: Mapping[str, Any], params: dict[str, Any]) -> Measurement:
    """The measurement of the stage that this process has just run with these options."""
    largest = max([usage(), *NOTED], key=attrgetter("gpu_gb", "peak_gb"))
    files = {name: value for name, value in options.items() if isinstance(value, Path)}
    rows = {name: count_rows(file) for name, file in files.items() if file.suffix == ROW_SUFFIX}
    cached, written = RowCache.reused, RowCache.written
    return Measurement(
        stage=stage,
        device=largest.device,
        seconds=round(seconds, 2),
        row_seconds=round(min(Bar.row_seconds, seconds), 2),
        peak_gb=round(largest.peak_gb, 3),
        gpu_gb=round(largest.gpu_gb, 3),
        reused=round(cached / max(1, cached + written), 3),
        skipped=round(Bar.skipped / max(1, Bar.total), 3),
        rows=rows,
        params=params,
        day=round(time.time()),
    )


def usage() -> Usage:
    """What this process has used until now."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return Usage("cpu", peak_gb(), 0.0)
    return Usage(torch.cuda.get_device_name(), peak_gb(), torch.cuda.max_memory_reserved() / GB)


def note(worker: Usage) -> None:
    """Count what a worker has used as this process's own, where it is more."""
    NOTED.append(worker)


def count_rows(file: Path) -> int:
    """The rows of a file of JSON lines; 0 if it is not there."""
    if not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def append(measurement: Measurement) -> None:
    """Write one line, in one step. A disk that is full, or read-only, fails no stage that has ended."""
    line = json.dumps(asdict(measurement), default=str) + "\n"
    file = path()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.stat().st_size > LIMIT:
            lines = file.read_bytes().splitlines(keepends=True)
            part = file.with_suffix(".part")
            part.write_bytes(b"".join(lines[len(lines) // 2 :]))
            part.replace(file)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def read() -> Iterator[Measurement]:
    """The measurements of this repository, oldest first, without lines torn or of another version."""
    names = {field.name for field in fields(Measurement)}
    try:
        lines = path().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError, AttributeError):
            row = json.loads(line)
            if row.keys() == names:
                yield Measurement(**row)
