"""Where a run's results come from: the stages in order, their inputs and outputs, and what the files hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.runtime import hashing

if TYPE_CHECKING:
    from dvc.stage import Stage

SHA256_DIGITS = 12  # hexadecimal digits that the page shows
CODE = ("medqa/", "stages/")


def stages(pipeline: Path, corpus: str) -> list[dict[str, Any]]:
    """The stages of a dvc.yaml, each after those whose outputs it reads, with the paths of its data.

    DVC fills in `foreach` and `${...}` from the params.yaml beside it. The report itself is left out, and
    so is code, unless it is the corpus.
    """
    from dvc.repo import Repo

    with Repo(str(pipeline.parent), uninitialized=True) as repo:
        loaded = repo.stage.load_all(str(pipeline))
    return _ordered([_describe(stage, corpus) for stage in loaded if stage.name != "report"])


def _describe(stage: "Stage", corpus: str) -> dict[str, Any]:
    reads = [dep.def_path for dep in stage.deps if not getattr(dep, "params", None)]
    return {
        "name": stage.name,
        "description": stage.desc or "",
        "reads": [path for path in reads if path == corpus or not path.startswith(CODE)],
        "writes": [out.def_path for out in stage.outs],
    }


def _ordered(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages in an order in which each comes after those that it needs; else as in the file."""
    waiting, ordered = list(stages), []
    while waiting:
        unwritten = {path for stage in waiting for path in stage["writes"]}
        ready = next((stage for stage in waiting if not unwritten.intersection(stage["reads"])), waiting[0])
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def files(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows, the size and the short SHA-256 of JSON lines files."""
    return [{"name": name, **_measure(folder / f"{name}.jsonl")} for name in names]


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        rows = sum(1 for line in file if line.strip())
    return {"rows": rows, "sha256": hashing.sha256_of(path)[:SHA256_DIGITS], "bytes": path.stat().st_size}
