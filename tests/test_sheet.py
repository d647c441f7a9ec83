"""medqa sheet: a random sample, blind to the model, that compare reads back."""

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import write_run
from test_compare import TEMPLATE

from medqa import calibration
from medqa.commands import cli, sheet
from medqa.records import HeldOut
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
HELD_OUT = [HeldOut(f"q{n:03}", "open", f"What of {n}?", "So.", (), "", "So.", "No.") for n in range(200)]
ANSWERS = {
    name: [replace(TEMPLATE, id=row.id, text=f"{name} of {row.id}") for row in HELD_OUT]
    for name in calibration.MODELS
}


def test_whole_questions_are_drawn_by_the_seed() -> None:
    rows = sheet.draw(HELD_OUT, ANSWERS, 0, "anna")
    assert Counter(Counter(row.id for row in rows).values()) == {3: sheet.LEAST}
    assert rows == sheet.draw(HELD_OUT, ANSWERS, 0, "anna")
    assert {row.id for row in rows} != {row.id for row in sheet.draw(HELD_OUT, ANSWERS, 1, "anna")}
    # Everybody gets the same answers, each in an order of their own.
    ben = sheet.draw(HELD_OUT, ANSWERS, 0, "ben")
    assert set(ben) == set(rows) and ben != rows
    # The order says nothing of the model.
    firsts = Counter(row.answer.split()[0] for row in rows[: len(rows) // 2])
    assert min(firsts[name] for name in ANSWERS) >= 12


@pytest.mark.parametrize(("count", "size"), [(None, 40), (5, 5), (150, 150), (1000, 200)])
def test_the_number_of_questions(count: int | None, size: int) -> None:
    assert len({row.id for row in sheet.draw(HELD_OUT, ANSWERS, 0, "anna", count)}) == size


def test_five_per_cent_of_many_questions() -> None:
    many = [replace(row, id=f"{row.id}-{n}") for row in HELD_OUT for n in range(6)]
    answers = {name: [replace(TEMPLATE, id=row.id, text=name) for row in many] for name in ANSWERS}
    assert len({row.id for row in sheet.draw(many, answers, 0, "anna")}) == 60


def test_only_open_questions_that_all_answered_and_each_text_once() -> None:
    answers = {name: list(rows) for name, rows in ANSWERS.items()}
    answers["sft"][0] = replace(answers["sft"][0], finish_reason="failed", text="")
    answers["dpo"][1] = replace(answers["dpo"][1], correct=False)
    answers["dpo"][2] = replace(answers["dpo"][2], text=answers["sft"][2].text)
    texts = Counter(row.id for row in sheet.draw(HELD_OUT, answers, 0, "anna", 1000))
    assert (texts["q000"], texts["q001"], texts["q002"], texts["q003"]) == (0, 0, 2, 3)
    with pytest.raises(UserError, match="has no open question that all models answered; run dvc"):
        sheet.draw(HELD_OUT, answers | {"base": []}, 0, "anna")
    with pytest.raises(UserError, match=r"--questions 0 must be at least 1"):
        sheet.draw(HELD_OUT, answers, 0, "anna", 0)


def test_a_sheet_that_is_filled_in_calibrates_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_run(tmp_path, size=120)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("medqa/miniature", str(ROOT / "medqa" / "miniature")))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sheet", "anna"]) == 0
    assert "answers to 40 questions" in capsys.readouterr().out
    assert cli.main(["sheet", "anna"]) == 1 and "is there already" in capsys.readouterr().err
    assert cli.main(["sheet", "../anna"]) == 1 and "must be of letters" in capsys.readouterr().err
    path = Path("data/people/anna.csv")
    assert not any(name in path.read_text(encoding="utf-8-sig").split("\n")[0] for name in calibration.MODELS)
    without = compare(tmp_path)
    assert "people" not in without
    with open(path, encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    with open(path, "w", encoding="utf-8", newline="") as file:  # as a spreadsheet does, with other line ends
        csv.writer(file, lineterminator="\r\n").writerows([header, *([*row[:-1], "0.25"] for row in rows)])
    people = compare(tmp_path)
    # Scores that calibrate add a condition's sentence, and change no other number.
    added = {"people", "conditions", "reason"}
    assert all(people[name] == value for name, value in without.items() if name not in added)
    assert people["people"]["stale"] == 0 and people["people"]["people"] == 1
    assert people["people"]["models"]["dpo"]["calibrated_score"] == pytest.approx(0.25)
    assert people["people"]["models"]["dpo"]["bias_low"] > 0


def compare(folder: Path) -> dict:
    """The metrics that the stage writes, in a process of its own as DVC starts it."""
    words = ["--answers", "data/answers", "--agreed", "data/agreement.jsonl", "--people", "data/people"]
    words += ["--metrics", "metrics/compare.json"]
    command = [sys.executable, "-m", "stages.compare", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "metrics" / "compare.json").read_text())
