"""medqa.runtime.progress: bars that end at 100%, few lines in a log, and the seconds of the rows."""

import os
import subprocess
import sys
import time

import pytest

from medqa.engines.base import Request, compute
from medqa.runtime import progress

SCRIPT = """
from medqa.runtime import environment
environment.set_up()
from medqa.runtime.progress import track
from tqdm import tqdm
list(track(range(5000), "judge", 5000, "row"))
list(tqdm(range(5), "of a library"))
"""


def test_a_log_has_few_whole_lines_and_ends_at_the_last_row() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TQDM")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env, check=True)
    lines = done.stderr.split("\n")
    assert "\r" not in done.stderr and len(lines) <= 4
    assert lines[-2].startswith("judge: 100%") and "5000/5000" in lines[-2]
    assert "library" not in done.stderr


def test_seconds_count_from_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens before the first row is loading; it does not grow with the rows."""
    monkeypatch.setattr(progress.Bar, "row_seconds", 0.0)

    def rows() -> object:
        time.sleep(0.3)
        for number in range(3):
            yield number
            time.sleep(0.02)

    assert list(progress.track(rows(), "answer", 3, "row")) == [0, 1, 2]
    assert 0.03 < progress.Bar.row_seconds < 0.25


def test_a_bar_counts_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("total", "skipped"):
        monkeypatch.setattr(progress.Bar, name, 0)
    bar = progress.Bar("sft", 10, "step", initial=4, shown=False)
    bar.update("loss=0.1")
    bar.close()
    assert (progress.Bar.total, progress.Bar.skipped) == (10, 4)


def test_the_bar_of_an_engine_shows_the_replicas(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(progress.Bar, "note", "3 replicas")
    rows = [[Request("q1", [])], [Request("q2", [])]]
    assert list(compute(lambda requests: [(row.id, 1) for row in requests], rows, "judge", 2)) == [[1], [1]]
    assert "3 replicas" in capsys.readouterr().err
