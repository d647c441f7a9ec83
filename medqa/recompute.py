"""Computes metrics again from the rows that they came from, and compares them with what is stored."""

import importlib
import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from medqa import params, records
from medqa.params import UserError

LOCK = Path("dvc.lock")


def recompute(metrics: Path) -> tuple[dict[str, Any], list[Path]]:
    """The cells of a metrics file (name to value, nested names with dots), from rows; and the files of those rows.

    The stage that wrote the file, and where it found its rows, stand in dvc.lock; parameters are those of params.yaml.
    Raises UserError if no stage wrote the file.
    """
    words = shlex.split(_command(metrics))
    module = importlib.import_module(words[words.index("-m") + 1])
    options = {
        name[2:].replace("-", "_"): value for name, value in zip(words, words[1:], strict=False) if name[:2] == "--"
    }
    wanted = [name for name in inspect.signature(module.measured).parameters if name != "given"]
    paths = {name: Path(options[name]) for name in wanted}
    return dict(cells(records.rounded(module.measured(params.read(), **paths)))), list(paths.values())


def stored(metrics: Path) -> dict[str, Any]:
    """The cells of a metrics file as it stands."""
    return dict(cells(json.loads(metrics.read_text(encoding="utf-8"))))


def cells(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of nested metrics under its dotted name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from cells(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def report(metrics: Path, cell: str | None) -> tuple[str, bool]:
    """What to tell of one cell, or of all of a file, and whether they are as stored.

    Raises UserError for an unknown cell.
    """
    found, rows = recompute(metrics)
    held = stored(metrics)
    source = ", ".join(map(str, rows))
    if cell is not None and cell not in held:
        raise UserError(f"{metrics} has no cell {cell!r}; it has {', '.join(held)}")
    if cell is not None:
        return f"{metrics} {cell}: {held[cell]} stored, {found.get(cell)} from {source}", held[cell] == found.get(cell)
    other = [name for name in sorted(held.keys() | found.keys()) if held.get(name) != found.get(name)]
    told = [f"{metrics} {name}: {held.get(name)} stored, {found.get(name)} from {source}" for name in other]
    return "\n".join(
        [*told, f"{metrics}: {len(held) - len(other)} of {len(held)} cells as stored, from {source}"]
    ), not other


def all_metrics() -> list[Path]:
    """The metrics files that dvc.lock names."""
    return [path for path, _ in _written() if path.suffix == ".json" and path.parts[0] == "metrics"]


def _command(metrics: Path) -> str:
    for path, command in _written():
        if path == metrics:
            return command
    raise UserError(f"{metrics} is no metrics file of dvc.lock; there are {', '.join(map(str, all_metrics()))}")


def _written() -> Iterator[tuple[Path, str]]:
    if not LOCK.is_file():
        raise UserError(f"{LOCK} is not there; run dvc repro first")
    for stage in yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"].values():
        for out in stage.get("outs", []):
            yield Path(out["path"]), stage["cmd"]
