"""`medqa doctor`: what a bug report needs, on one screen."""

import argparse
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from medqa.commands.project import repository
from medqa.runtime.environment import scratch_root
from medqa.runtime.errors import UserError
from medqa.runtime.params import PARAMS, read_params

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "gptqmodel",
    "optimum",
    "dvc",
    "numpy",
)
GB = 1e9
# What presets/qwen2.5-1.5b.yaml takes: both models (1.2 and 6.2 GB), the two data sets, and room for outputs.
REAL_DISK, REAL_GPU, REAL_MEMORY = 14, 8, 16


def add(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print the screen; the exit code is 1 if params.yaml is wrong."""
    del options
    device, gpu = accelerator()
    memory, free = ram()
    disk = shutil.disk_usage(".").free / GB
    wrong, dtype = "", "?"
    try:
        dtype = read_params().dtype
    except UserError as error:
        wrong = str(error).splitlines()[0]
    lines = {
        "system": f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {installed(name)}" for name in ("medqa", *LIBRARIES)),
        "device": f"{device}, dtype {dtype}",
        "memory": f"{memory:.1f} GB, {free:.1f} GB free; disk {disk:.1f} GB free; kept work in {scratch_root()}",
        "params.yaml": wrong or preset(),
        "pins": ", ".join(pins()) or "none (models from scratch)",
        "dvc": links(),
        "real preset": fits(gpu, memory, disk),
    }
    for name, told in lines.items():
        print(f"{name:12} {told}")
    return int(bool(wrong))


def installed(name: str) -> str:
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
    words = f"cuda:0 {card.name}, {card.total_memory / GB:.1f} GB"
    if not any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang"))):
        words += "; training needs a C compiler (gcc or clang), with which Triton makes TRL's kernels"
    return words, card.total_memory / GB


def ram() -> tuple[float, float]:
    """Memory in all and free, in GB."""
    page = os.sysconf("SC_PAGE_SIZE") / GB
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def preset() -> str:
    """Which preset params.yaml equals, or the nearest one and in which keys it differs."""
    known = {
        str(path): yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted(Path("presets").glob("*.yaml"))
    }
    shown = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, text=True)
    if shown.returncode == 0:
        known["the committed params.yaml"] = yaml.safe_load(shown.stdout)
    if not known:
        return "no preset to compare with"
    mine = flat(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))
    others = {name: {key for key, _ in mine.items() ^ flat(raw).items()} for name, raw in known.items()}
    name, keys = min(others.items(), key=lambda item: len(item[1]))
    listed = ", ".join(sorted(keys)[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
    return f"nearest to {name}, other in {listed}" if keys else f"equals {name}"


def flat(raw: Any, prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted keys to JSON."""
    if not isinstance(raw, dict):
        return {prefix: json.dumps(raw)}
    return {
        key: value
        for name, part in raw.items()
        for key, value in flat(part, f"{prefix}.{name}".strip(".")).items()
    }


def pins() -> list[str]:
    """The pinned and the converted models: repo@commit or file@sha256, with the licence."""
    named = [(pin["repo"], pin["commit"], pin) for pin in _models("pin.json")]
    named += [
        (origin["file"], origin["sha256"], origin)
        for origin in _models("provenance.json")
        if "file" in origin
    ]
    return [
        f"{name}@{digest[:12]} ({entry.get('licence', 'licence not recorded')})"
        for name, digest, entry in named
    ]


def _models(name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path("models").glob(f"*/{name}"))]


def links() -> str:
    """How DVC puts files of its cache into the workspace, with advice."""
    try:
        kinds = repository().cache.local.cache_types
    except UserError as error:
        return str(error)
    told = f"cache links {','.join(kinds)}"
    if not {"hardlink", "symlink"} & set(kinds):
        told += "; without reflinks files are copied: dvc config --local cache.type hardlink,symlink saves half the disk"
    return told


def fits(gpu: float, memory: float, disk: float) -> str:
    """Whether presets/qwen2.5-1.5b.yaml could run here."""
    if disk < REAL_DISK:
        return f"does not fit: {REAL_DISK} GB of disk are needed, {disk:.1f} are free"
    if gpu >= REAL_GPU * 0.95:
        return f"fits: {gpu:.1f} GB of GPU memory, {REAL_GPU} needed"
    if gpu == 0 and memory >= REAL_MEMORY:
        return "fits on the CPU, but slowly: take smaller data.max_* for a trial"
    needed = f"{REAL_GPU} GB of GPU memory, or without a GPU {REAL_MEMORY} GB of memory"
    return f"does not fit: {needed} are needed, there are {gpu:.1f} and {memory:.1f}"
