"""Trackers get the training curves and the summary, results stay as they are, and a missing one is named."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from training_jobs import EXAMPLES, sft_job

from medqa import sft
from medqa.runtime import tracking
from medqa.runtime.errors import UserError
from medqa.training import fine_tuning


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The main repository is a temporary folder; variables of trackers are gone after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "TENSORBOARD_", "WANDB_"))]:
        del os.environ[name]
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def test_by_default_nothing_is_sent(tiny_base: Path, tmp_path: Path) -> None:
    arguments = fine_tuning.arguments(sft_job(tiny_base, tmp_path), 4, tmp_path)
    assert arguments["report_to"] == "none" and "run_name" not in arguments
    tracking.log_summary(None, tmp_path / "summary.json")


@pytest.mark.parametrize("tracker", tracking.PACKAGES)
def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=f"^compute.tracking = '{tracker}' needs the package {tracker}.*: pip"
    ):
        tracking.arguments(tracker, "sft")


def test_the_user_decides_where_a_tracker_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    arguments = tracking.arguments("wandb", "dpo")
    assert (arguments["report_to"], arguments["run_name"]) == ("wandb", "dpo")
    assert os.environ["WANDB_PROJECT"] == "mine"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "runs" / "dpo")


def test_mlflow_gets_curve_and_summary_and_the_adapter_is_the_same(tiny_base: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    for name, tracker in (("plain", None), ("tracked", "mlflow")):
        (tmp_path / name).mkdir()
        sft.train(replace(sft_job(tiny_base, tmp_path / name), tracking=tracker), EXAMPLES)
    weights = [tmp_path / name / "sft" / "adapter_model.safetensors" for name in ("plain", "tracked")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    curves = [(tmp_path / name / "sft.tsv").read_bytes() for name in ("plain", "tracked")]
    assert curves[0] == curves[1]
    (tmp_path / "summary.json").write_text(json.dumps({"score_dpo": 0.5, "pairs": 9}))
    tracking.log_summary("mlflow", tmp_path / "summary.json")
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("medqa").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"sft", "summary"}
    losses = [point.value for point in client.get_metric_history(runs["sft"].info.run_id, "loss")]
    steps = (tmp_path / "tracked" / "sft.tsv").read_text().splitlines()[1:]
    assert len(losses) == len(steps) == 3
    assert runs["summary"].data.metrics == {"score_dpo": 0.5, "pairs": 9}
    assert all(run.info.status == "FINISHED" for run in runs.values())
