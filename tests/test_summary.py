"""medqa.summary and stages.summary: the numbers that one wants first, the plots' tables, docs/metrics.md."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_run import ROOT, RunPaths, write_run
from test_compare import TEMPLATE

from medqa import compare, summary
from medqa.runtime.params import read_params
from stages import summary as stage

NUMBERS = (ROOT / "docs" / "metrics.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run of which the stage `summary` has written its files."""
    paths = write_run(tmp_path_factory.mktemp("run"))
    stage.main(paths.metrics, paths.data / "answers", paths.metrics / "summary.json", paths.metrics / "plots")
    return paths


def read(run: RunPaths, name: str) -> dict[str, Any]:
    return json.loads((run.metrics / f"{name}.json").read_text())


def table(run: RunPaths, name: str) -> list[dict[str, str]]:
    with (run.metrics / "plots" / f"{name}.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_each_number_is_that_of_its_stage(run: RunPaths) -> None:
    numbers = read(run, "summary")
    changes, agreement = read(run, "compare"), read(run, "agreement")
    for model in ("base", "sft", "dpo"):
        assert numbers[f"score_{model}"] == read(run, f"evaluate/{model}")["score"]
        assert numbers[f"token_f1_{model}"] == read(run, f"evaluate/{model}")["token_f1"]
    assert numbers["score_gain_low"] == changes["dpo_over_sft"]["score_gain_low"]
    assert numbers["score_gain_over_placebo"] == changes["dpo_over_placebo"]["score_gain"]
    assert numbers["worst_group_gain"] == changes["worst_group"]["score_gain"]
    assert numbers["failed_conditions"] == 1  # of the four of this run
    assert numbers["judge_agreement"] == agreement["by"]["all"]["agreement"]
    naive = [value for name, value in agreement["by"]["all"].items() if name.endswith("_wins")]
    assert numbers["baseline_agreement"] == max(naive) and len(naive) == 3
    assert numbers["attack_rate"] == agreement["attacks"]["attack_rate"]


def test_docs_explain_each_number_and_no_more(run: RunPaths) -> None:
    rows = [line.split("|")[1] for line in NUMBERS.splitlines() if line.startswith("| `")]
    explained = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(explained) == sorted(read(run, "summary"))
    assert sorted(explained) == sorted(json.loads((ROOT / "metrics" / "summary.json").read_text()))


def test_every_output_outside_the_cache_is_a_metric_or_a_plot() -> None:
    """DVC puts no run of a stage into its run cache that has another output with `cache: false`."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    bodies = {name: stage.get("do", stage) for name, stage in stages.items()}
    assert not [out for body in bodies.values() for out in body.get("outs", []) if isinstance(out, dict)]
    assert "metrics/summary.json" in bodies["summary"]["metrics"][0]


def drawn() -> dict[str, dict]:
    """The options of each plot by its file, which may hold the name of a model or a control."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    bodies = [stage.get("do", stage) for stage in stages]
    return {
        file: options for body in bodies for plot in body.get("plots", []) for file, options in plot.items()
    }


@pytest.mark.parametrize("pattern", drawn())
def test_each_plot_names_its_axes_and_columns_that_exist(pattern: str) -> None:
    """DVC draws every file under `plots` of a stage, and without these options it guesses what to draw."""
    options = drawn()[pattern]
    own = ROOT / ".dvc" / "plots" / f"{options.get('template', 'linear')}.json"
    template = own.read_text() if own.exists() else "<DVC_METRIC_X_LABEL>"
    fields = set(re.findall(r'"field": "(\w+)"', template)) - {"rev", "x", "y"}
    for name in ("judge", "placebo") if "$" in pattern else ("",):
        header = (ROOT / re.sub(r"\$\{\w+\}", name, pattern)).read_text().splitlines()[0].split("\t")
        assert {options["x"], options["y"]} | fields <= set(header)
    assert (
        options["title"]
        and {"x_label", "y_label"} <= options.keys()
        or "<DVC_METRIC_X_LABEL>" not in template
    )
    json.loads(template if own.exists() else "{}")


def test_what_a_run_does_not_have_is_left_out() -> None:
    empty = {"by": {}, "small_groups": 0}
    changes = {"dpo_over_sft": empty, "worst_group": {}, "conditions": {}}
    evaluations = dict.fromkeys(compare.MODELS, {"questions": 0})
    assert summary.summarise(evaluations, changes, {"by": {}, "attacks": {}}, {"pairs": 0}) == {
        "failed_conditions": 0,
        "pairs": 0,
    }


def test_the_evaluation_table_has_a_row_per_measure_and_model(run: RunPaths) -> None:
    rows = table(run, "evaluation")
    assert [row["model"] for row in rows if row["measure"] == "score"] == list(compare.MODELS)
    for row in rows:
        assert 0 <= float(row["low"]) <= float(row["mean"]) <= float(row["high"]) <= 1
    dpo = next(row for row in rows if (row["measure"], row["model"]) == ("token f1", "dpo"))
    assert float(dpo["mean"]) == read(run, "evaluate/dpo")["token_f1"]
    assert [float(row["right"]) for row in table(run, "reliability")] == [0.55, 0.91]


def test_bins_of_length_hold_a_tenth_and_no_length_twice() -> None:
    lengths = [1] * 5 + [2] * 30 + [3] * 4 + [4] * 60 + [5]
    answers = [
        replace(TEMPLATE, id=str(n), text="so " * length, score=length / 10)
        for n, length in enumerate(lengths)
    ]
    exam, unscored = replace(TEMPLATE, correct=True), replace(TEMPLATE, score=None)
    rows = summary.length_table({"dpo": [*answers, exam, unscored], "oracle": []})
    assert [row["answers"] for row in rows] == [35, 65]
    assert [row["words"] for row in rows] == [round(65 / 35, 2), round((12 + 240 + 5) / 65, 2)]
    assert rows[0]["score"] == pytest.approx(6.5 / 35, abs=1e-4)
    few = summary.length_table({"dpo": answers[4:6]})
    assert [(row["words"], row["answers"]) for row in few] == [(1, 1), (2, 1)]


def test_the_metrics_are_computed_again_from_the_same_files(run: RunPaths) -> None:
    params = read_params(ROOT / "params.yaml")
    assert stage.compute_metrics(params, run.metrics) == read(run, "summary")


def test_a_table_is_written_whole(run: RunPaths, tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    with pytest.raises(FileNotFoundError):
        stage.main(run.metrics, tmp_path / "answers", tmp_path / "summary.json", tmp_path / "plots")
    assert not list(tmp_path.glob("plots/length*"))
