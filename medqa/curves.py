"""Step curves: the numbers of each training step as a TSV, which `dvc plots` draws."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medqa import jsonl
from medqa.runtime.errors import UserError


def write_curve(path: Path, rows: Iterable[Mapping[str, float]], columns: Mapping[str, str]) -> None:
    """Write the step of each row, and the logged numbers that `columns` names, under its names for them."""
    with jsonl.atomic_write(path) as file:
        file.write("\t".join(["step", *columns.values()]) + "\n")
        for row in rows:
            file.write("\t".join([str(row["step"]), *(f"{row[name]:.6g}" for name in columns)]) + "\n")


def read_curve(path: Path, allow_empty: bool = False) -> dict[str, list[float]]:
    """The columns of a step curve by name. Raises UserError if it has no step and may not be empty."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if not lines and not allow_empty:
        raise UserError(f"{path} holds no step; rerun the stage that writes it")
    steps = [list(map(float, line.split("\t"))) for line in lines]
    return {name: [step[column] for step in steps] for column, name in enumerate(header.split("\t"))}


def tail_mean(values: Sequence[float]) -> float:
    """The mean over the last tenth of the steps, at least one."""
    tail = values[-max(1, len(values) // 10) :]
    return sum(tail) / len(tail)
