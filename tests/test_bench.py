"""The benchmark at the smallest size: every contender runs, does what the others do, and is in the table."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bench import runs, sft, workloads

MARKED = "before\n<!-- make bench writes from here -->\nold\n<!-- to here -->\nafter\n"


def bench(*given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--runs", "1", "--loads", "tiny", *given])
    import_module("bench.__main__").main()


@pytest.fixture
def in_process(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch in a process for each run would take minutes; the stages that import none are quick."""
    alone, one = runs.alone, import_module("bench.__main__").one
    monkeypatch.setattr(
        runs, "alone", lambda stage, *given: (alone if stage == "data" else one)(stage, *given)
    )
    monkeypatch.setattr(workloads, "FOLDER", tmp_path_factory.getbasetemp() / "bench")


@pytest.fixture
def weighed(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that has just run is not run again to be weighed."""
    monkeypatch.setattr(runs, "alone", lambda *_: {"peak_mb": runs.peak()})


@pytest.mark.parametrize(("stage", "contenders"), [("generate", 3), ("judge", 3), ("sft", 5), ("dpo", 4)])
def test_a_stage_is_compared_with_every_contender(
    stage, contenders, weighed, tmp_path, monkeypatch, capsys
) -> None:
    bench("--only", stage, "--out", str(tmp_path), monkeypatch=monkeypatch)
    told = json.loads((tmp_path / "results.json").read_text())[stage]["tiny"]
    assert contenders == len(told["rates"]) == len(told["peak_mb"]) == len(told["times"]) + 1
    assert told["same"] and all(rate["median"] > 0 for rate in told["rates"].values())
    assert set(told["targets"]) <= set(told["times"])
    shown = capsys.readouterr().out
    assert all(f"| {stage} | tiny | {name} |" in shown for name in told["times"])


def test_what_is_measured_by_itself_is_in_the_readme(in_process, tmp_path, monkeypatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(MARKED)
    only = ("--only", "data", "everything", "growth")
    bench(*only, "--out", str(tmp_path), "--readme", str(readme), monkeypatch=monkeypatch)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["data"]["pairs"]["flat"] and not any(results["everything"]["imports_torch"].values())
    assert results["growth"]["judge"]["rows"] == [1, 4, 16]
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- to here -->\nafter\n") and "old" not in text
    assert "| judge | 1, 4, 16 |" in text and "`medqa --help`" in text
    assert (tmp_path / "growth.svg").read_text().startswith("<svg")


def test_losses_that_differ_are_told() -> None:
    sft.assert_near([2.0, 1.0], [2.00009, 1.0])
    with pytest.raises(AssertionError, match="apart"):
        sft.assert_near([2.0, 1.0], [2.0002, 1.0])
    with pytest.raises(AssertionError, match="does not move"):
        sft.assert_near([2.0, 2.0], [2.0, 2.0])


def test_contenders_take_turns_and_are_compared_round_by_round() -> None:
    order = []
    rates = runs.alternate({name: lambda name=name: order.append(name) or 1 for name in ("medqa", "peer")}, 3)
    assert order == ["medqa", "peer"] * 3 and [len(some) for some in rates.values()] == [3, 3]
    # The second round was slow for both.
    told = runs.ratios({"medqa": [4.0, 1.0, 6.0], "peer": [2.0, 0.5, 2.0]})
    assert told == {"peer": {"median": 2.0, "min": 2.0, "max": 3.0}}


def test_the_peak_of_a_child_is_its_own(tmp_path: Path) -> None:
    filled = bytes(300_000_000)
    told = runs.alone("data", "tiny", "pairs", 4)
    assert 20 < told["peak_mb"] < 200 < runs.peak() and filled
