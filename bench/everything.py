"""What nothing to do costs: `dvc repro` when all is done, `medqa --help`, and what a stage imports."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench import runs
from bench.workloads import ROOT

PARTS = (
    ".dvcignore",
    "dvc.yaml",
    "params.yaml",
    "medqa",
    "stages",
)  # of the project, as far as its pipeline reads it
FREE = ("compare", "data", "pairs", "report")  # stages that need no torch
TARGETS = {"times": 1.5, "help_seconds": 0.3}


def measure(loads: list[str], rounds: int, out: Path) -> dict[str, Any]:
    """Seconds of this pipeline and of a bare one with nothing to do, of the help, and which stages import
    torch.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = Path(folder, "whole"), Path(folder, "bare")
        stages = copied(whole)
        chained(bare, stages)
        dvc(whole, "repro")  # the first time DVC fills its own tables
        rates = runs.alternate(
            {runs.FAST: lambda: dvc(whole, "repro"), "bare": lambda: dvc(bare, "repro")}, rounds
        )
    told = runs.alternate({"help": helped}, rounds)["help"]
    return {
        "stages": stages,
        "seconds": {name: runs.spread([1 / rate for rate in values]) for name, values in rates.items()},
        "times": runs.spread(
            [bare / ours for ours, bare in zip(rates[runs.FAST], rates["bare"], strict=True)]
        ),
        "help_seconds": runs.spread([1 / rate for rate in told]),
        "imports_torch": {name: imports_torch(name) for name in FREE},
        "targets": TARGETS,
    }


def copied(folder: Path) -> int:
    """This pipeline in another place, all of it done as far as DVC can tell; how many stages it has.

    No stage runs: small files stand for what they write, and `dvc commit` takes them for it.
    """
    from dvc.repo import Repo

    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder)
    begin(folder)
    with Repo(str(folder)) as repo:
        stages = list(repo.index.stages)
    for path in (folder / written.def_path for stage in stages for written in stage.outs):
        path = path if path.suffix else path / "weights"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("done\n", encoding="utf-8")
    dvc(folder, "commit", "--force")
    return len(stages)


def chained(folder: Path, stages: int) -> None:
    """A bare pipeline: as many stages, each with one dependency and one output."""
    folder.mkdir()
    (folder / "0").write_text("done\n", encoding="utf-8")
    given = {
        f"s{place}": {"cmd": f"cp {place - 1} {place}", "deps": [str(place - 1)], "outs": [str(place)]}
        for place in range(1, stages + 1)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": given}), encoding="utf-8")
    begin(folder)
    dvc(folder, "repro", runs_stages=True)


def begin(folder: Path) -> None:
    """A repository of DVC that asks nothing of the network."""
    dvc(folder, "init", "--no-scm", "--quiet")
    told = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    (folder / ".dvc" / "config").write_text(told, encoding="utf-8")


def dvc(folder: Path, *given: str, runs_stages: bool = False) -> int:
    """Run DVC once. Raises RuntimeError if it fails, or runs a stage where there is nothing to do."""
    told = runs.child("-m", "dvc", *given, cwd=folder)
    if "Running stage" in told and not runs_stages:
        raise RuntimeError(f"dvc {' '.join(given)} ran a stage: {told[-2000:]}")
    return 1


def helped() -> int:
    """Ask `medqa` for its help once."""
    runs.child("-m", "medqa", "--help", cwd=ROOT)
    return 1


def imports_torch(stage: str) -> bool:
    """Whether the stage loads torch before it does its work, parameters checked; bench/data.py looks at the
    work.
    """
    code = f"import sys, stages.{stage}; from medqa.runtime.params import read_params; read_params(); print('torch' in sys.modules)"
    return runs.child("-c", code, cwd=ROOT) == "True\n"
