"""medqa.runtime.measurements: one line per run of a stage, in a file that stays small."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import checkout
from medqa import jsonl
from medqa.records import Judged
from medqa.runtime import measurements
from medqa.runtime.measurements import Measurement, Usage

ROW = Measurement("sft", "cpu", 9.5, 8.0, 1.2, 0.0, 0.0, 0.0, {"examples": 7}, {"seed": 0}, 1.0)


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "kept"))


def test_lines_come_back_in_their_order_without_torn_ones() -> None:
    assert list(measurements.read()) == []
    measurements.append(ROW)
    with measurements.path().open("a") as file:
        file.write('{"stage": "sft", "sec\n[1]\n{"stage": "of another version"}\n')
    measurements.append(replace(ROW, stage="dpo"))
    assert list(measurements.read()) == [ROW, replace(ROW, stage="dpo")]


def test_the_file_stays_small_and_keeps_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "LIMIT", 4000)
    for number in range(100):
        measurements.append(replace(ROW, day=float(number)))
    days = [row.day for row in measurements.read()]
    assert measurements.path().stat().st_size < 4500 and days[-1] == 99 and len(days) > 5
    assert days == sorted(days) and [path.name for path in measurements.path().parent.iterdir()] == [
        measurements.path().name
    ]


def test_a_full_disk_fails_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    measurements.path().parent.mkdir()
    measurements.path().mkdir()  # cannot be opened for writing
    measurements.append(ROW)
    assert list(measurements.read()) == []


def test_a_stage_notes_what_it_cost(tmp_path: Path) -> None:
    judged = tmp_path / "judged.jsonl"
    jsonl.write(judged, iter(list[Judged]()))
    command = [
        sys.executable,
        "-m",
        "stages.pairs",
        "--judged",
        str(judged),
        "--out",
        str(tmp_path / "pairs.jsonl"),
    ]
    command += ["--metrics", str(tmp_path / "pairs.json")]
    env = checkout.environment() | {"MEDQA_CACHE": str(tmp_path / "kept"), "DVC_STAGE": "../dvc.yaml:pairs"}
    subprocess.run(command, cwd=checkout.ROOT, env=env, capture_output=True, check=True)
    (row,) = measurements.read()
    assert row.stage == "pairs" and row.device == "cpu" and row.seconds > 0 and row.peak_gb > 0.01
    assert row.rows == {"judged": 0, "out": 0} and row.params["pairs"]["policy"] == "best_worst"
    assert "servers" not in row.params["compute"]


def test_what_a_worker_used_counts_where_it_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "NOTED", [])
    for worker in (Usage("cpu", 0.0, 0.0), Usage("Some card", 900.0, 8.0)):
        measurements.note(worker)
    row = measurements.measure("sft", 1.0, {}, {})
    assert (row.device, row.peak_gb, row.gpu_gb) == ("Some card", 900, 8)
