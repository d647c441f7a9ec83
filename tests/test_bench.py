"""The benchmark at the smallest size: every contender runs, gives the same results, and is in the table."""

import json
import sys
from importlib import import_module

import pytest

from bench import runs, sft, workloads

pytestmark = pytest.mark.slow

PAGE = "before\n<!-- make bench writes from here -->\nold\n<!-- to here -->\nafter\n"


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Runs the benchmark once on the tiny workload, in this process: importing torch anew takes too long."""
    module, alone = import_module("bench.__main__"), runs.alone

    def measure(stage: str, *arguments) -> dict[str, float]:
        return (alone if stage == "data" else module.measure_one)(stage, *arguments)

    monkeypatch.setattr(runs, "alone", measure)
    monkeypatch.setattr(workloads, "FOLDER", tmp_path_factory.getbasetemp() / "bench")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["bench", "--runs", "1", "--loads", "tiny", *arguments])
        module.main()

    return run


@pytest.mark.parametrize(("stage", "contenders"), [("generate", 3), ("judge", 3), ("sft", 5), ("dpo", 4)])
def test_a_stage_is_compared_with_every_contender(
    stage, contenders, bench, tmp_path, monkeypatch, capsys
) -> None:
    # A contender that has just run is not run again for its memory.
    monkeypatch.setattr(runs, "alone", lambda *_: {"peak_mb": runs.peak()})
    bench("--only", stage, "--out", str(tmp_path))
    result = json.loads((tmp_path / "results.json").read_text())[stage]["tiny"]
    assert contenders == len(result["rates"]) == len(result["peak_mb"]) == len(result["times"]) + 1
    assert result["same"] and all(rate["median"] > 0 for rate in result["rates"].values())
    assert set(result["targets"]) <= set(result["times"])
    output = capsys.readouterr().out
    assert all(f"| {stage} | tiny | {name} |" in output for name in result["times"])


def test_what_is_measured_by_itself_is_in_the_page(bench, tmp_path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(PAGE)
    bench("--only", "data", "everything", "growth", "--out", str(tmp_path), "--page", str(page))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["data"]["pairs"]["flat"] and not any(results["everything"]["imports_torch"].values())
    assert results["growth"]["judge"]["rows"] == [1, 4, 16]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- to here -->\nafter\n") and "old" not in text
    assert "| judge | 1, 4, 16 |" in text and "`medqa --help`" in text
    assert (tmp_path / "growth.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("losses", "reason"), [([2.0002, 1.0], "apart"), ([2.0, 1.0], None), ([2.00009, 1.0], None)]
)
def test_losses_that_differ_are_an_error(losses: list[float], reason: str | None) -> None:
    if reason is None:
        sft.assert_near([2.0, 1.0], losses)
    else:
        with pytest.raises(AssertionError, match=reason):
            sft.assert_near([2.0, 1.0], losses)


def test_losses_that_do_not_move_show_nothing() -> None:
    with pytest.raises(AssertionError, match="does not move"):
        sft.assert_near([2.0, 2.0], [2.0, 2.0])


def test_contenders_take_turns_and_are_compared_round_by_round() -> None:
    order = []
    rates = runs.alternate({name: lambda name=name: order.append(name) or 1 for name in ("medqa", "peer")}, 3)
    assert order == ["medqa", "peer"] * 3 and [len(values) for values in rates.values()] == [3, 3]
    # The second round was slow for both.
    times = runs.speedups({"medqa": [4.0, 1.0, 6.0], "peer": [2.0, 0.5, 2.0]})
    assert times == {"peer": {"median": 2.0, "min": 2.0, "max": 3.0}}


def test_the_peak_of_a_child_is_its_own() -> None:
    ballast = bytes(300_000_000)
    measured = runs.alone("data", "tiny", "pairs", 4)
    assert 20 < measured["peak_mb"] < 200 < runs.peak() and ballast
