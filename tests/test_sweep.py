"""bench.sweep: which experiments are queued, and the table from those that are there."""

import json
import subprocess
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import checkout, experiments, sweep
from bench.sweep import Cell
from medqa.records import Answer, Score
from medqa.runtime.errors import UserError

PARAMS = yaml.safe_load((checkout.ROOT / "params.yaml").read_text(encoding="utf-8"))


def answer(name: str, score: float, repetition: float = 0.0, correct: bool | None = None) -> Answer:
    scores = asdict(Score(score, score, score, score, 1.0, 0, ""))
    measured: dict[str, Any] = dict.fromkeys(("key_point_recall", "token_f1", "rouge_l", "coverage"), score)
    logprobs = (
        "chosen_logprob",
        "rejected_logprob",
        "chosen_tokens",
        "reference_logprob",
        "reference_tokens",
    )
    return Answer(
        **scores,
        **measured,
        **dict.fromkeys(logprobs),
        id=name,
        kind="open",
        text="It is so.",
        finish_reason="stop",
        tokens=4,
        repetition=repetition,
        choice="",
        correct=correct,
        judge="judge",
    )


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=medqa", "-c", "user.email=medqa@localhost")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository without experiments."""
    git(tmp_path, "init", "-q")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "start")
    return tmp_path


def add(folder: Path, cell: Cell, pairs: int, gains: list[float], **params: Any) -> None:
    """Add a finished experiment, with the gains of DPO over SFT in score and, negative, in repetition."""
    values = PARAMS | {"seed": cell.seed} | params
    values["generate"] = PARAMS["generate"] | {"n": cell.n}
    values["pairs"] = PARAMS["pairs"] | {"policy": cell.policy}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "pairs.json").write_text(json.dumps({"pairs": pairs}))
    (folder / "data" / "answers").mkdir(parents=True, exist_ok=True)
    rows = {"sft": [answer(f"q{n}", 0.5, repetition=0.1) for n in range(len(gains))]}
    rows["dpo"] = [answer(f"q{n}", 0.5 + gain, 0.1 - gain) for n, gain in enumerate(gains)]
    for model, answers in rows.items():
        answers.append(answer("exam", 1.0, correct=True))  # multiple choice does not count
        lines = [json.dumps(vars(row)) + "\n" for row in answers]
        (folder / "data" / "answers" / f"{model}.jsonl").write_text("".join(lines))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", cell.name, "--allow-empty")
    git(folder, "update-ref", f"refs/exps/aa/{'b' * 38}/{cell.name}", "HEAD")


def read(folder: Path) -> list[experiments.Experiment]:
    return experiments.read(folder, sweep.PREFIX, sweep.VARIED, ["pairs"])


def test_the_table_has_means_over_seeds_with_intervals(project: Path) -> None:
    add(project, Cell(8, "reference", 1), 20, [0.1, 0.1])
    add(project, Cell(2, "best_worst", 0), 10, [0.0] * 5)
    add(project, Cell(2, "best_worst", 1), 13, [0.2] * 5)
    first, second = sweep.summarize(read(project))
    assert (first["n"], first["policy"], first["seeds"], first["pairs"]) == (2, "best_worst", [0, 1], 11.5)
    assert (second["n"], second["policy"], second["seeds"]) == (8, "reference", [1])
    for name in ("score", "token_f1", "rouge_l", "key_point_recall"):
        gain = [first[f"{name}_gain{end}"] for end in ("", "_low", "_high")]
        assert gain == pytest.approx([0.1, 0.0, 0.2])
    assert first["repetition_gain"] == pytest.approx(-0.1) and first["cut_off_gain"] == 0
    lines = sweep.page([first, second]).splitlines()
    assert [line.count("|") for line in lines if "|" in line] == [11] * 4
    assert lines[-2].startswith("| 2 | best_worst | 0, 1 | 12 | +0.100 (+0.000 to +0.200) |")
    assert json.loads(json.dumps([first, second])) == [first, second]


def test_a_placebo_changes_no_gain_of_dpo(project: Path) -> None:
    for seed, placebo in enumerate((True, False)):
        params = {"control": PARAMS["control"] | {"placebo": placebo}}
        add(project, Cell(2, "best_worst", seed), 1, [0.1], **params)
    assert len(read(project)) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({}, "no experiment"), ({"dtype": "bfloat16"}, "differ in dtype; dvc exp remove the old ones")],
)
def test_what_makes_no_table_is_an_error(project: Path, changes: dict[str, Any], problem: str) -> None:
    if changes:
        add(project, Cell(2, "best_worst", 0), 1, [0.1])
        add(project, Cell(2, "best_worst", 1), 1, [0.1], **changes)
    with pytest.raises(UserError, match=problem):
        read(project)


@pytest.mark.parametrize(("placebo", "setting"), [(False, "false"), (True, "true")])
def test_only_missing_cells_are_queued_by_seed(
    project: Path, monkeypatch: pytest.MonkeyPatch, placebo: bool, setting: str
) -> None:
    add(project, Cell(2, "reference", 0), 1, [0.1])
    cells = list(map(Cell._make, product((2, 16), ("best_two_sd", "reference"), (0, 1))))
    commands: list[list[str]] = []
    run = subprocess.run

    def record(command: list[str], **options: Any) -> Any:
        if "dvc" in command:
            commands.append(command[len(checkout.DVC) :])
            return None
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", record)
    assert sweep.queue(project, cells, placebo) == len(commands) == 7
    assert commands[0] == [
        *("exp", "run", "--queue", "--name", "sweep-n2-best_two_sd-seed0"),
        *("-S", "generate.n=2", "-S", "pairs.policy=best_two_sd", "-S", "seed=0"),
        *("-S", f"control.placebo={setting}"),
    ]
    assert [command[4][-1] for command in commands] == list("0001111")


def test_another_preset_is_not_swept(project: Path) -> None:
    other = PARAMS | {"data": PARAMS["data"] | {"sft": {"source": "files"}}}
    (project / "params.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(UserError, match="run medqa preset base"):
        sweep.queue(project, [Cell(2, "best_worst", 0)], placebo=False)


def test_the_page_is_made_from_the_json() -> None:
    docs = checkout.ROOT / "docs"
    rows = json.loads((docs / "sweep.json").read_text(encoding="utf-8"))
    assert (docs / "sweep.md").read_text(encoding="utf-8") == sweep.page(rows)
