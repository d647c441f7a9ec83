"""medqa.report.terminal_table: the end of a run, from the numbers of the report."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from medqa import compare, report
from medqa.report import terminal_table

PAGE = Path("report/index.html")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report.read_metrics(write_run(tmp_path_factory.mktemp("run")).metrics)


def test_the_numbers_are_those_of_the_metrics(metrics: dict[str, Any]) -> None:
    text = report.render_table(metrics, PAGE)
    lines = text.splitlines()
    assert max(map(len, lines)) <= terminal_table.WIDTH and text.isascii()
    assert [line.split()[0] for line in lines[2:5]] == ["base", "SFT", "DPO"]
    for line, name in zip(lines[2:5], compare.TRAINED, strict=True):
        result = metrics[f"evaluate/{name}"]
        for key in terminal_table.MEASURES:
            assert f"{result[key]:.3f} ({result[f'{key}_low']:.3f}-{result[f'{key}_high']:.3f})" in line
    assert "WORSE: the judge's score changed by +0.200" in text
    assert "attribute: treatment -0.300 (-0.400 to -0.200)" in " ".join(text.split())
    assert "open report/index.html" in text and "medqa ask" in text


def test_a_model_without_answers_has_no_line_and_a_missing_measure_a_dash(metrics: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(metrics))
    changed["evaluate/dpo"]["questions"] = 0
    for ending in ("", "_low", "_high"):
        del changed["evaluate/sft"][f"rouge_l{ending}"]
    lines = report.render_table(changed, PAGE).splitlines()
    assert lines[3].startswith("SFT") and lines[3].endswith(f" {terminal_table.NONE}")
    assert lines[4] == ""


def test_a_long_reason_is_wrapped_and_cut_at_the_first_reason(metrics: dict[str, Any]) -> None:
    reason = "word " * 60 + "end; a second reason"
    text = report.render_table(metrics | {"compare": metrics["compare"] | {"reason": reason}}, PAGE)
    assert max(map(len, text.splitlines())) <= terminal_table.WIDTH
    assert "end" in text and "second reason" not in text
