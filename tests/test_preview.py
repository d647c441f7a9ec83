"""`medqa preview`: rows rendered as in training, with the loss and the cut marked, and the lengths of all."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medqa import jsonl
from medqa.commands.cli import main
from medqa.records import Example, HeldOut, Labelled, Question

ROOT = Path(__file__).parent.parent
SHORT = Example("short", "open", "What is it?", "It is rest.")
LONG = replace(SHORT, id="long", answer=" ".join(["It is rest."] * 60))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after the stages models@base and data."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "medqa/miniature/corpus").mkdir(parents=True)
    shutil.copytree(ROOT / "medqa/miniature/shipped/base", tmp_path / "models/base")
    monkeypatch.chdir(tmp_path)
    jsonl.write(Path("data/sft.jsonl"), [SHORT, LONG])
    jsonl.write(Path("data/questions.jsonl"), [Question("q", "What is it?", "It is rest.")])
    held_out = HeldOut("h", "open", "What is it?", "It is rest.", (), "", "It is rest.", "It is work.")
    jsonl.write(Path("data/heldout.jsonl"), [held_out])
    jsonl.write(
        Path("data/labelled.jsonl"), [Labelled("l", "easy", "What is it?", "", "It is rest.", "It is work.")]
    )
    return tmp_path


def test_the_loss_and_the_cut_are_marked(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["preview"]) == 0
    shown = capsys.readouterr().out
    assert ">>>It is rest.<|im_end|>" in shown and shown.count("~~~It") + shown.count("~~~ ") >= 1
    short, long = (
        re.search(rf"{name}, answer: (\d+) tokens of prompt and (\d+)", shown) for name in ("short", "long")
    )
    assert short and long and short[1] == long[1] and int(long[2]) > 128 > int(short[2])
    cut = int(long[1]) + int(long[2]) - 128
    assert f"; {cut} are cut off" in shown
    assert "50.0% are over sft.max_length = 128" in shown
    assert re.search(rf"in all +min {int(short[1]) + int(short[2])}, median", shown)


def test_a_prompt_that_reaches_max_length_is_left_out(project: Path, capsys: pytest.CaptureFixture) -> None:
    jsonl.write(Path("data/sft.jsonl"), [replace(SHORT, question="What is it? " * 60)])
    assert main(["preview"]) == 0
    assert "left out, for the prompt reaches max_length" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        ("questions", ["It is rest."]),
        ("heldout", ["It is rest."]),
        ("labelled", ["It is rest.", "It is work."]),
    ],
)
def test_other_rows_have_no_loss(
    project: Path, capsys: pytest.CaptureFixture, rows: str, texts: list[str]
) -> None:
    assert main(["preview", rows, "-n", "1"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{text}<|im_end|>" in shown for text in texts) and ">>>" not in shown
    assert "max_length" not in shown and "p95" in shown


def test_what_is_missing_is_one_sentence(project: Path, capsys: pytest.CaptureFixture) -> None:
    Path("data/sft.jsonl").write_text("")
    assert main(["preview"]) == 1 and "has no rows" in capsys.readouterr().err
    shutil.rmtree("models")
    assert main(["preview"]) == 1
    error = capsys.readouterr().err
    assert "dvc repro data models@base makes them" in error and len(error.splitlines()) == 1
