"""`medqa recompute`: metrics again from the rows that they came from, compared with what is stored."""

import argparse
import importlib
import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medqa import jsonl
from medqa.commands.project import locked
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params


def add(parser: argparse.ArgumentParser) -> None:
    """Which cells."""
    parser.add_argument("file", nargs="?", type=Path, help="a file of metrics/; all if none is given")
    parser.add_argument("cell", nargs="?", help="one number of it, such as score or by.all.agreement")


def run(options: argparse.Namespace) -> int:
    """Print what was found; the exit code is 1 if a number is stored that the rows do not bear out.

    Raises UserError, after what could be recomputed, if files are not there.
    """
    wrong, missing = 0, []
    for path in [options.file] if options.file else all_metrics():
        try:
            line, same = report(path, options.cell)
        except FileNotFoundError as error:
            missing.append(str(error.filename))
            continue
        print(line)
        wrong += not same
    if missing:
        names = list(dict.fromkeys(missing))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise UserError(
            f"not here: {', '.join(names[:4])}{more}; dvc pull brings what was pushed, dvc repro makes the rest"
        )
    return int(wrong > 0)


def recompute(metrics: Path) -> tuple[dict[str, Any], list[Any]]:
    """The cells of a metrics file (name to value, nested names with dots), from rows; and the files of those
    rows.

    The stage that wrote the file, and where it found its rows, stand in dvc.lock; parameters are those of
    params.yaml. Raises UserError if no stage wrote the file, or one whose options are other ones now.
    """
    stage, command = _command(metrics)
    words = [stage if word == "$DVC_STAGE" else word for word in shlex.split(command)]
    module = importlib.import_module(words[words.index("-m") + 1])
    options = {
        name[2:].replace("-", "_"): value
        for name, value in zip(words, words[1:], strict=False)
        if name[:2] == "--"
    }
    signature = inspect.signature(module.compute_metrics)
    wanted = {
        name: parameter.annotation for name, parameter in signature.parameters.items() if name != "params"
    }
    if wanted.keys() - options:
        raise UserError(f"{stage} was last run by another version of its code; run dvc repro {stage} first")
    values = {name: kind(options[name]) for name, kind in wanted.items()}
    return dict(cells(jsonl.rounded(module.compute_metrics(read_params(), **values)))), list(values.values())


def stored(metrics: Path) -> dict[str, Any]:
    """The cells of a metrics file as it is. Raises UserError if it is none."""
    try:
        return dict(cells(json.loads(metrics.read_text(encoding="utf-8"))))
    except (ValueError, AttributeError):
        raise UserError(f"{metrics} is no file of metrics; dvc repro writes it again") from None


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
        return f"{metrics} {cell}: {held[cell]} stored, {found.get(cell)} from {source}", held[
            cell
        ] == found.get(cell)
    other = [name for name in sorted(held.keys() | found.keys()) if held.get(name) != found.get(name)]
    told = [f"{metrics} {name}: {held.get(name)} stored, {found.get(name)} from {source}" for name in other]
    return "\n".join(
        [*told, f"{metrics}: {len(held) - len(other)} of {len(held)} cells as stored, from {source}"]
    ), not other


def all_metrics() -> list[Path]:
    """The metrics files that dvc.lock names."""
    return [path for path, _, _ in _written() if path.suffix == ".json" and path.parts[0] == "metrics"]


def _command(metrics: Path) -> tuple[str, str]:
    for path, stage, command in _written():
        if path == metrics:
            return stage, command
    raise UserError(
        f"{metrics} is no metrics file of dvc.lock; there are {', '.join(map(str, all_metrics()))}"
    )


def _written() -> Iterator[tuple[Path, str, str]]:
    for name, stage in locked().items():
        for out in stage.get("outs", []):
            yield Path(out["path"]), name, stage["cmd"]
