"""The pipeline end to end on a still smaller setting: dvc repro, again, and with a change."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench import checkout
from medqa import jsonl, records
from medqa.runtime import folders

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SMALLER = {
    "models.base": {"steps": 40, "layers": 2, "vocabulary": 800},
    "models.judge": {"steps": 40, "layers": 2, "vocabulary": 800, "examples": 500},
    "data": {"max_sft": 256, "max_questions": 40, "max_held_out": 30, "max_labelled": 40},
    "sft": {"epochs": 1},
    "generate": {"max_new_tokens": 12},
    "judge": {"min_mass": 0.0},
    "pairs": {"min_margin": 0.0},
    "dpo": {"epochs": 1, "batch_size": 8, "micro_batch_size": 8},
    "evaluate": {"max_new_tokens": 12, "bootstrap_samples": 100},
}
CONTROLS = {"control@placebo", "control@oracle"}
BENCHMARKS = {"benchmark@base", "benchmark@sft", "benchmark@dpo"}
AFTER_BETA = {
    "dpo",
    *CONTROLS,
    "evaluate@dpo",
    "evaluate@placebo",
    "benchmark@dpo",
    "compare",
    "summary",
    "report",
}
EVALUATIONS = {"evaluate@base", "evaluate@sft", "evaluate@dpo", "evaluate@placebo"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with this checkout's files, smaller parameters, and the pipeline run once."""
    folder = tmp_path_factory.mktemp("project")
    checkout.copy(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    recipe = folder / "medqa" / "miniature" / "shipped" / "recipe.yaml"
    params["models"] = yaml.safe_load(recipe.read_text())["models"]  # trained here
    for section, values in SMALLER.items():
        at = params
        for key in section.split("."):
            at = at[key]
        at |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    checkout.commit(folder)
    dvc(folder, "repro")
    return folder


def dvc(folder: Path, *arguments: str, fails: bool = False) -> str:
    """Run dvc in the folder; its output. The stages must find this interpreter."""
    command = [*checkout.DVC, *arguments]
    done = subprocess.run(command, cwd=folder, env=checkout.environment(), capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def rows(project: Path, name: str, kind: type) -> list:
    return list(jsonl.read(project / "data" / name, kind))


def test_every_id_comes_out_of_every_stage(project: Path) -> None:
    questions = {row.id for row in rows(project, "questions.jsonl", records.Question)}
    candidates = rows(project, "candidates.jsonl", records.Candidate)
    judged = rows(project, "judged.jsonl", records.Judged)
    assert len(candidates) == 2 * len(questions) and {row.question_id for row in candidates} == questions
    assert [row.id for row in judged] == [row.id for row in candidates]
    pairs = json.loads((project / "metrics" / "pairs.json").read_text())
    left_out = sum(value for key, value in pairs.items() if key.startswith("left_out_"))
    assert pairs["questions"] == len(questions) == pairs["pairs"] + left_out
    held_out = [row.id for row in rows(project, "heldout.jsonl", records.HeldOut)]
    for name in ("base", "sft", "dpo", "placebo"):
        assert [row.id for row in rows(project, f"answers/{name}.jsonl", records.Answer)] == held_out


def test_no_held_out_prompt_is_trained_on(project: Path) -> None:
    from medqa.sources.options import prompt_key

    held = {prompt_key(row.question) for row in rows(project, "heldout.jsonl", records.HeldOut)}
    trained = rows(project, "sft.jsonl", records.Example) + rows(project, "pairs.jsonl", records.Pair)
    assert not held & {prompt_key(row.question) for row in trained}


def test_dpo_started_from_the_sft_adapter(project: Path) -> None:
    curve = (project / "metrics" / "curves" / "dpo.tsv").read_text().splitlines()
    first = dict(zip(curve[0].split("\t"), curve[1].split("\t"), strict=True))
    assert float(first["margin"]) == pytest.approx(0, abs=1e-6)
    weight = yaml.safe_load((project / "params.yaml").read_text())["dpo"]["sft_weight"]
    assert float(first["loss"]) > math.log(2) - 1e-3 and weight > 0


def test_metrics_are_scalars_without_nan(project: Path) -> None:
    files = list((project / "metrics").rglob("*.json"))
    assert len(files) == 21

    def check(value) -> None:
        if isinstance(value, dict):
            for item in value.values():
                check(item)
        elif isinstance(value, list):  # the bins of the reliability diagram, which DVC's tables leave out
            for item in value:
                check(item)
        else:
            assert isinstance(value, str | int) or math.isfinite(value)

    for path in files:
        check(json.loads(path.read_text()))


def test_a_second_repro_runs_nothing(project: Path) -> None:
    lock = (project / "dvc.lock").read_bytes()
    assert not ran(dvc(project, "repro"))
    assert (project / "dvc.lock").read_bytes() == lock


def test_a_parameter_starts_at_its_own_stage(project: Path) -> None:
    judged = {"judge", "agreement", *EVALUATIONS, "evaluate@oracle"}
    # A dry run tells what has changed, not yet what follows from it. The report shows every parameter.
    starts = {
        "dpo.beta": {"dpo", *CONTROLS},
        "control.placebo": {"control@placebo"},
        "control.oracle": {"control@oracle"},
        "pairs.min_margin": {"pairs", *CONTROLS},
        "judge.min_mass": judged,
        "generate.temperature": {"generate"},
        "sft.epochs": {"sft"},
        "benchmark.chat_template": BENCHMARKS,
        "data.near_duplicate": {"data", *BENCHMARKS},
        "compute.judge_batch_size": set(),
    }
    original = (project / "params.yaml").read_text()
    for name, expected in starts.items():
        params = yaml.safe_load(original)
        section, key = name.split(".")
        value = params[section][key]
        params[section][key] = not value if isinstance(value, bool) else 2 if value == 1 else 1
        (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        shown = set() if section == "compute" else {"report"}
        assert ran(dvc(project, "repro", "--dry")) == expected | shown, name
    (project / "params.yaml").write_text(original)


def test_another_judge_evaluates_and_changes_nothing_else(project: Path) -> None:
    original, lock = (project / "params.yaml").read_text(), (project / "dvc.lock").read_bytes()
    params = yaml.safe_load(original)
    params["models"]["second"] = params["models"]["judge"] | {"steps": 10}
    params["evaluate"]["judge"] = "second"
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    output = dvc(project, "repro")
    evaluated = {*EVALUATIONS, "evaluate@oracle"}
    assert ran(output) == {"check", "models@second", *evaluated, "agreement", "compare", "summary", "report"}
    assert json.loads((project / "metrics" / "evaluate" / "dpo.json").read_text())["judge"].startswith(
        "second ("
    )
    (project / "params.yaml").write_text(original)
    assert not ran(dvc(project, "repro"))
    assert json.loads((project / "metrics" / "evaluate" / "dpo.json").read_text())["judge"].startswith(
        "judge ("
    )
    (project / "dvc.lock").write_bytes(lock)
    (project / "metrics" / "models" / "second.json").unlink()


def test_every_cell_of_every_metrics_file_comes_out_of_its_rows(project: Path) -> None:
    command = [sys.executable, "-m", "medqa", "recompute"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.findall(r"^(\S+): (\d+) of (\d+) cells as stored", done.stdout, re.MULTILINE)
    files = {str(path.relative_to(project)) for path in (project / "metrics").rglob("*.json")}
    assert {name for name, *_ in told} == files
    assert all(same == count != "0" for _, same, count in told)
    # Some of them once more, without a line of the project's code.
    answers = [json.loads(line) for line in (project / "data" / "answers" / "dpo.jsonl").open()]
    stored = json.loads((project / "metrics" / "evaluate" / "dpo.json").read_text())
    scores = [row["score"] for row in answers if row["correct"] is None and row["score"] is not None]
    assert stored["score"] == round(sum(scores) / len(scores), 4)
    assert stored["questions"] == len(answers)


def test_an_experiment_runs_what_follows_and_nothing_else(project: Path) -> None:
    """The oracle is off: its stage writes nothing again, and no later one runs for it."""
    assert ran(dvc(project, "exp", "run", "--temp", "-S", "dpo.beta=0.2")) == AFTER_BETA


def test_a_control_that_is_off_is_empty_and_one_that_is_on_is_trained(project: Path) -> None:
    for name, is_on in (("placebo", True), ("oracle", False)):
        assert folders.is_empty(project / "models" / name) != is_on
        for path in (f"controls/{name}.jsonl", f"answers/{name}.jsonl"):
            assert bool((project / "data" / path).read_text().strip()) == is_on
    made, judged = (
        {row.id: {row.chosen, row.rejected} for row in rows(project, name, records.Pair)}
        for name in ("controls/placebo.jsonl", "pairs.jsonl")
    )
    assert made == judged
    compared = json.loads((project / "metrics" / "compare.json").read_text())
    assert "dpo_over_placebo" in compared and "oracle_over_sft" not in compared
    page = (project / "report" / "index.html").read_text()
    assert "DPO over placebo" in page and "oracle over SFT" not in page


def test_an_oracle_is_added_and_nothing_else_runs_again(project: Path) -> None:
    output = dvc(project, "exp", "run", "--temp", "-S", "control.oracle=true")
    assert ran(output) == {"control@oracle", "evaluate@oracle", "compare", "summary", "report"}
    assert "control: oracle: " in output and "oracle over sft: score" in output


def test_outputs_without_rows_come_back_from_the_cache(project: Path) -> None:
    shutil.rmtree(project / "models" / "oracle")
    for name in ("controls", "answers"):
        (project / "data" / name / "oracle.jsonl").unlink()
    dvc(project, "checkout")
    output = dvc(project, "repro")
    assert not ran(output) and "is empty" not in output and folders.is_empty(project / "models" / "oracle")


def test_plots_and_metrics_are_drawn(project: Path) -> None:
    header, row = dvc(project, "metrics", "show", "metrics/summary.json").strip().splitlines()[-2:]
    assert "score_gain_low" in header and row.startswith("metrics/summary.json")
    dvc(project, "plots", "show", "--out", "drawn")
    page = (project / "drawn" / "index.html").read_text()
    assert page.count('"$schema"') == 9  # the oracle is off, and its curve empty
    assert "<DVC_METRIC" not in page and '"title": "metrics/' not in page and '"text": "metrics/' not in page


def test_a_mistake_in_params_ends_the_first_stage_with_one_line(project: Path) -> None:
    original = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(original.replace("max_bad_share: 0.02", "max_bad_share: 2"))
    try:
        output = dvc(project, "repro", fails=True)
        assert "params.yaml: data.max_bad_share = 2" in output
        assert "Traceback" not in output
    finally:
        (project / "params.yaml").write_text(original)
        dvc(project, "checkout")
