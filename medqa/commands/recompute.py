"""`medqa recompute`: metrics again from the rows that they came from, compared with the metrics files."""

import argparse
import importlib
import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medqa import jsonl
from medqa.commands.project import locked_stages
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params


def add(parser: argparse.ArgumentParser) -> None:
    """Which cells."""
    parser.add_argument("file", nargs="?", type=Path, help="a file of metrics/; without one, all")
    parser.add_argument("cell", nargs="?", help="one number of it, such as score or by.all.agreement")


def run(options: argparse.Namespace) -> int:
    """Print the comparison; the exit code is 1 if a stored number does not come out of the rows.

    Raises UserError, after what could be recomputed, if files are not there.
    """
    different, missing = 0, []
    for path in [options.file] if options.file else metrics_files():
        try:
            lines, equal = compare(path, options.cell)
        except FileNotFoundError as error:
            missing.append(str(error.filename))
            continue
        print("\n".join(lines))
        different += not equal
    if missing:
        names = list(dict.fromkeys(missing))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise UserError(
            f"not here: {', '.join(names[:4])}{more}; "
            "dvc pull brings what was pushed, dvc repro makes the rest"
        )
    return int(different > 0)


def compare(metrics: Path, cell: str | None) -> tuple[list[str], bool]:
    """Lines about one cell, or about all cells of a file, and whether they are as stored.

    Raises UserError for an unknown cell.
    """
    computed, inputs = recompute(metrics)
    stored = read_stored(metrics)
    source = ", ".join(map(str, inputs))

    def line(name: str) -> str:
        return f"{metrics} {name}: {stored.get(name)} stored, {computed.get(name)} from {source}"

    if cell is not None and cell not in stored:
        raise UserError(f"{metrics} has no cell {cell!r}; it has {', '.join(stored)}")
    if cell is not None:
        return [line(cell)], stored[cell] == computed.get(cell)
    names = sorted(stored.keys() | computed.keys())
    different = [name for name in names if stored.get(name) != computed.get(name)]
    total = f"{metrics}: {len(stored) - len(different)} of {len(stored)} cells as stored, from {source}"
    return [*map(line, different), total], not different


def recompute(metrics: Path) -> tuple[dict[str, Any], list[Any]]:
    """The cells of a metrics file by dotted name, computed from rows, and the files of those rows.

    dvc.lock names the stage that wrote the file and the paths of its rows; parameters are those of
    params.yaml. Raises UserError if no stage wrote the file, or if the stage has other options by now.
    """
    stage, command = _writer(metrics)
    words = [stage if word == "$DVC_STAGE" else word for word in shlex.split(command)]
    module = importlib.import_module(words[words.index("-m") + 1])
    options = {
        name[2:].replace("-", "_"): value
        for name, value in zip(words, words[1:], strict=False)
        if name.startswith("--")
    }
    signature = inspect.signature(module.compute_metrics)
    kinds = {
        name: parameter.annotation for name, parameter in signature.parameters.items() if name != "params"
    }
    if kinds.keys() - options:
        raise UserError(f"{stage} was last run by another version of its code; run dvc repro {stage} first")
    values = {name: kind(options[name]) for name, kind in kinds.items()}
    computed = module.compute_metrics(read_params(), **values)
    return dict(cells(jsonl.rounded(computed))), list(values.values())


def read_stored(metrics: Path) -> dict[str, Any]:
    """The cells of a metrics file as it is. Raises UserError if it is none."""
    try:
        return dict(cells(json.loads(metrics.read_text(encoding="utf-8"))))
    except (ValueError, AttributeError):
        raise UserError(f"{metrics} is no file of metrics; dvc repro writes it again") from None


def cells(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of nested metrics under its dotted name."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from cells(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def metrics_files() -> list[Path]:
    """The metrics files that dvc.lock names."""
    return [path for path, _, _ in _outputs() if path.suffix == ".json" and path.parts[0] == "metrics"]


def _writer(metrics: Path) -> tuple[str, str]:
    """The stage that wrote a metrics file, and its command."""
    for path, stage, command in _outputs():
        if path == metrics:
            return stage, command
    names = ", ".join(map(str, metrics_files()))
    raise UserError(f"{metrics} is no metrics file of dvc.lock; there are {names}")


def _outputs() -> Iterator[tuple[Path, str, str]]:
    """Path, stage and command of each output in dvc.lock."""
    for name, stage in locked_stages().items():
        for out in stage.get("outs", []):
            yield Path(out["path"]), name, stage["cmd"]
