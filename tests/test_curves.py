"""medqa.curves: step curves are read as they were written."""

from pathlib import Path

import pytest

from medqa.curves import read_curve, tail_mean, write_curve
from medqa.runtime.errors import UserError


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "curve.tsv"
    rows = [{"step": 1, "loss": 2.0, "rewards/margins": 0.5}, {"step": 2, "loss": 1.5, "rewards/margins": 1}]
    write_curve(path, rows, {"loss": "loss", "rewards/margins": "margin"})
    assert path.read_text() == "step\tloss\tmargin\n1\t2\t0.5\n2\t1.5\t1\n"
    assert read_curve(path) == {"step": [1.0, 2.0], "loss": [2.0, 1.5], "margin": [0.5, 1.0]}


def test_a_curve_without_steps_is_refused_unless_it_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "curve.tsv"
    write_curve(path, [], {"loss": "loss"})
    assert read_curve(path, allow_empty=True) == {"step": [], "loss": []}
    with pytest.raises(UserError, match="holds no step; rerun the stage"):
        read_curve(path)


@pytest.mark.parametrize(("steps", "mean"), [(1, 0.0), (9, 8.0), (20, 18.5)])
def test_the_tail_is_a_tenth_of_the_steps(steps: int, mean: float) -> None:
    assert tail_mean([float(step) for step in range(steps)]) == mean
