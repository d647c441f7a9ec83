"""bench.millions at the smallest sizes: every step runs, and table and plot have a line for each."""

import json
import sys
from pathlib import Path

import pytest

from bench import million_rows, millions

STEPS = [step for step in million_rows.STEPS if step != "report"]  # it needs a finished run


@pytest.mark.slow
def test_every_step_runs_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "growth.md"
    page.write_text(f"before\n{millions.BEGIN}\nold\n<!-- to here -->\nafter\n")
    options = ["--sizes", "40", "--out", str(tmp_path), "--page", str(page), "--only", *STEPS]
    monkeypatch.setattr(sys, "argv", ["millions", *options])
    millions.main()
    result = json.loads((tmp_path / "growth.json").read_text())
    assert {step: {*by_rows} for step, by_rows in result.items()} == dict.fromkeys(STEPS, {"40"})
    assert all(done["peak_mb"] > 20 for by_rows in result.values() for done in by_rows.values())
    text = page.read_text()
    assert all(f"| {step} | 40 |" in text for step in STEPS) and "old" not in text
    assert (tmp_path / "growth.svg").read_text().count("<polyline") == 2 * len(STEPS)


def test_a_run_that_was_stopped_is_named_in_the_table() -> None:
    result = {"judge": {"10": {"seconds": 1.0, "peak_mb": 70.0}, "20": {"stopped": "over 6 GB"}}}
    assert millions.markdown(result).splitlines()[2:] == [
        "| judge | 10 | 1.0 | 100.00 | 70 |  |",
        "| judge | 20 | over 6 GB | | | |",
    ]
    assert str(millions.plot(result)).count("<polyline") == 2
