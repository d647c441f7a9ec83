"""What a pipeline with nothing to do costs: `dvc repro`, `medqa --help`, and what a stage imports."""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench import checkout, runs
from bench.checkout import ROOT

# What the pipeline depends on.
PARTS = (".dvcignore", "dvc.yaml", "params.yaml", "medqa", "stages", "data/people")
FREE = ("compare", "data", "pairs", "report")  # stages that need no torch
TARGETS = {"times": 1.5, "help_seconds": 0.3}
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"


def measure(loads: list[str], rounds: int, out: Path) -> dict[str, Any]:
    """Seconds of this pipeline and of a bare one with nothing to do and of the help; who imports torch."""
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = Path(folder, "whole"), Path(folder, "bare")
        stages = copy_done(whole)
        write_chain(bare, stages)
        dvc(whole, "repro")  # the first time DVC fills its own tables
        pipelines = {runs.OURS: lambda: dvc(whole, "repro"), "bare": lambda: dvc(bare, "repro")}
        rates = runs.alternate(pipelines, rounds)
    help_rates = runs.alternate({"help": show_help}, rounds)["help"]
    slowdowns = [bare / ours for ours, bare in zip(rates[runs.OURS], rates["bare"], strict=True)]
    return {
        "stages": stages,
        "seconds": {name: runs.spread([1 / rate for rate in values]) for name, values in rates.items()},
        "times": runs.spread(slowdowns),
        "help_seconds": runs.spread([1 / rate for rate in help_rates]),
        "imports_torch": {name: imports_torch(name) for name in FREE},
        "targets": TARGETS,
    }


def copy_done(folder: Path) -> int:
    """Copy this pipeline in a state in which DVC finds every stage done; the number of its stages.

    No stage runs: `dvc commit` accepts small files in the place of its outputs.
    """
    from dvc.repo import Repo

    folder.mkdir()
    checkout.copy(folder, *PARTS)
    init_dvc(folder)
    with Repo(str(folder)) as repo:
        stages = list(repo.index.stages)
    for path in (folder / output.def_path for stage in stages for output in stage.outs):
        path = path if path.suffix else path / "weights"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("done\n", encoding="utf-8")
    dvc(folder, "commit", "--force")
    return len(stages)


def write_chain(folder: Path, length: int) -> None:
    """Write and run a bare pipeline: as many stages, each with one dependency and one output."""
    folder.mkdir()
    (folder / "0").write_text("done\n", encoding="utf-8")
    stages = {
        f"s{number}": {
            "cmd": f"cp {number - 1} {number}",
            "deps": [str(number - 1)],
            "outs": [str(number)],
        }
        for number in range(1, length + 1)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    init_dvc(folder)
    dvc(folder, "repro", runs_stages=True)


def init_dvc(folder: Path) -> None:
    """Make a DVC repository that uses neither git nor the network."""
    dvc(folder, "init", "--no-scm", "--quiet")
    (folder / ".dvc" / "config").write_text(CONFIG, encoding="utf-8")


def dvc(folder: Path, *arguments: str, runs_stages: bool = False) -> int:
    """Run DVC once. Raises RuntimeError if it fails, or runs a stage that should be done."""
    output = runs.child("-m", "dvc", *arguments, cwd=folder)
    if "Running stage" in output and not runs_stages:
        raise RuntimeError(f"dvc {' '.join(arguments)} ran a stage: {output[-2000:]}")
    return 1


def show_help() -> int:
    """Run `medqa --help` once."""
    runs.child("-m", "medqa", "--help", cwd=ROOT)
    return 1


def imports_torch(stage: str) -> bool:
    """Whether the stage loads torch until its parameters are checked; bench/data.py covers its work."""
    code = f"import sys, stages.{stage}; from medqa.runtime.params import read_params; "
    return runs.child("-c", code + "read_params(); print('torch' in sys.modules)", cwd=ROOT) == "True\n"
