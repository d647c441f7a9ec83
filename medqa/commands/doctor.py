"""`medqa doctor`: what a bug report needs, on one screen."""

import argparse
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medqa.commands.preset import nearest_preset
from medqa.commands.project import repository
from medqa.runtime.environment import scratch_root
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params

LIBRARIES = ["medqa", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "gptqmodel"]
LIBRARIES += ["optimum", "ray", "dvc", "numpy"]
GB = 1e9
# What the preset qwen2.5-1.5b takes: both models (1.2 and 6.2 GB), the two data sets, and room for outputs.
REAL_DISK, REAL_GPU, REAL_MEMORY = 14, 8, 16


def add(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print the screen; the exit code is 1 if params.yaml is wrong."""
    device, gpu = accelerator()
    memory, available = ram()
    disk = shutil.disk_usage(".").free / GB
    mistake, dtype = "", "?"
    try:
        dtype = read_params().dtype
    except UserError as error:
        mistake = str(error).splitlines()[0]
    lines = {
        "system": f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {installed_version(name)}" for name in LIBRARIES),
        "device": f"{device}, dtype {dtype}",
        "memory": f"{memory:.1f} GB, {available:.1f} GB free; disk {disk:.1f} GB free; "
        f"kept work in {scratch_root()}",
        "params.yaml": mistake or nearest_preset(),
        "pins": ", ".join(pins()) or "none (tiny models)",
        "dvc": cache_links(),
        "real preset": fit(gpu, memory, disk),
    }
    for name, value in lines.items():
        print(f"{name:12} {value}")
    return int(bool(mistake))


def installed_version(name: str) -> str:
    """A package's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def accelerator() -> tuple[str, float]:
    """The device that stages use, in words, and its memory in GB (0 for a CPU)."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads", 0.0
    card = torch.cuda.get_device_properties(0)
    description = f"cuda:0 {card.name}, {card.total_memory / GB:.1f} GB"
    if not any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang"))):
        description += "; training needs a C compiler (gcc or clang), with which Triton makes TRL's kernels"
    return description, card.total_memory / GB


def ram() -> tuple[float, float]:
    """Memory in all and available, in GB."""
    page = os.sysconf("SC_PAGE_SIZE") / GB
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def pins() -> list[str]:
    """The pinned and the converted models: repo@commit or file@sha256, with the licence."""
    pinned = [(pin["repo"], pin["commit"], pin) for pin in _model_files("pin.json")]
    converted = [made for made in _model_files("provenance.json") if "file" in made]
    pinned += [(made["file"], made["sha256"], made) for made in converted]
    return [
        f"{name}@{digest[:12]} ({entry.get('licence', 'licence not recorded')})"
        for name, digest, entry in pinned
    ]


def _model_files(name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path("models").glob(f"*/{name}"))]


def cache_links() -> str:
    """How DVC puts files of its cache into the workspace, with advice."""
    try:
        kinds = repository().cache.local.cache_types
    except UserError as error:
        return str(error)
    links = f"cache links {','.join(kinds)}"
    if {"hardlink", "symlink"} & set(kinds):
        return links
    advice = "dvc config --local cache.type hardlink,symlink saves half the disk"
    return f"{links}; without reflinks files are copied: {advice}"


def fit(gpu: float, memory: float, disk: float) -> str:
    """Whether the preset qwen2.5-1.5b could run here; all in GB."""
    if disk < REAL_DISK:
        return f"does not fit: {REAL_DISK} GB of disk are needed, {disk:.1f} are free"
    if gpu >= REAL_GPU * 0.95:
        return f"fits: {gpu:.1f} GB of GPU memory, {REAL_GPU} needed"
    if gpu == 0 and memory >= REAL_MEMORY:
        return "fits on the CPU, but slowly: take smaller data.max_* for a trial"
    needed = f"{REAL_GPU} GB of GPU memory, or without a GPU {REAL_MEMORY} GB of memory"
    return f"does not fit: {needed} are needed, there are {gpu:.1f} and {memory:.1f}"
