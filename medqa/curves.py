"""Step curves: the numbers of each training step as a TSV file, for `dvc plots`."""

from collections.abc import Sequence
from pathlib import Path

from medqa import jsonl
from medqa.runtime.errors import UserError


def write_curve(path: Path, rows: list[dict[str, float]], columns: dict[str, str]) -> None:
    """Write a TSV for `dvc plots`: the step, then the logged names of `columns` under the names it gives
    them.
    """
    with jsonl.atomic_write(path) as file:
        file.write("\t".join(["step", *columns.values()]) + "\n")
        for row in rows:
            file.write("\t".join([str(row["step"]), *(f"{row[name]:.6g}" for name in columns)]) + "\n")


def read_curve(path: Path) -> dict[str, list[float]]:
    """The columns of a step curve. Raises UserError if it holds no step."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise UserError(f"{path} holds no step; rerun the stage that writes it")
    columns = zip(*(map(float, line.split("\t")) for line in lines), strict=True)
    return {name: list(column) for name, column in zip(header.split("\t"), columns, strict=True)}


def tail_mean(values: Sequence[float]) -> float:
    """The mean over the last tenth of the steps, at least one."""
    tail = values[-max(1, len(values) // 10) :]
    return sum(tail) / len(tail)
