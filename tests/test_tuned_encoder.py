"""medqa.models.tuned_encoder: a judge that learns which text says what, on rows that it will not judge."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder

from medqa import jsonl
from medqa.engines import Request
from medqa.engines.encoder_engine import EncoderEngine
from medqa.miniature.contrasts import QuestionAnswer
from medqa.models import tuned_encoder
from medqa.prompts import statement
from medqa.records import ValidationExample
from medqa.runtime.errors import UserError
from medqa.runtime.model_sections import TunedEncoder

WORDS = ["fever", "cough", "rash", "gout"]


def sft_row(number: int) -> dict[str, Any]:
    first, second = WORDS[number % 4], WORDS[number // 4 % 4]
    texts = (
        f"the {first} of {second} {number}",
        f"{first} {first}. a {second} of the {first}. the {second}.",
    )
    turns = [{"from": side, "value": text} for side, text in zip(("human", "gpt"), texts, strict=True)]
    return {"id": f"A,{number}", "type": "Open-End", "conversations": turns, "answer": None, "score": None}


def preference_row(question: str, chosen: str, rejected: str = "Something else.") -> dict[str, Any]:
    def turns(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    sides = {"chosen": turns(chosen), "rejected": turns(rejected)}
    return {"prompt_id": "A,1", "label_type": "hard", "prompt": question, **sides, "metadata": {}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    # Answers repeat, and neither questions nor answers have to be new to teach.
    lines = [json.dumps(sft_row(number)) for number in range(tuned_encoder.VALIDATION_ROWS + 40)]
    (folder / "sft.jsonl").write_text("\n".join(lines))
    held_out = [preference_row("The fever of FEVER, 0!", "No answer here."), preference_row("New?", "x")]
    (folder / "held_out.json").write_text(json.dumps(held_out))
    tiny_encoder.write(folder / "start")
    return folder


def source(**changes: Any) -> TunedEncoder:
    start = {"source": "wheel", "package": "a==1", "folder": "b", "sha256": "0" * 64}
    values = {"start": start, "text": "sft.jsonl", "exclude": ["held_out.json"], "template": "points-pair"}
    values |= {"examples": 40, "steps": 12, "batch_size": 8, "learning_rate": 0.003, "max_length": 16}
    return TunedEncoder(source="tuned_encoder", **values | changes)


def test_it_learns_is_calibrated_and_reproducible(corpus: Path, tmp_path: Path) -> None:
    losses, _ = tuned_encoder.make(source(), corpus / "start", corpus, 0, tmp_path / "a")
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])
    again, _ = tuned_encoder.make(source(), corpus / "start", corpus, 0, tmp_path / "b")
    assert again == losses
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"calibration.json", "model.safetensors", "tokenizer.json", "validation.jsonl"} <= {*names}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    examples = jsonl.read_all(tmp_path / "a" / "validation.jsonl", ValidationExample)
    assert len(examples) >= 2 * tuned_encoder.VALIDATION_ROWS
    assert {example.expected for example in examples} == {("no",), ("yes",)}
    request = Request("a", statement("points-pair", "point", "", "the fever of gout", "fever"))
    (_, labels), *_ = EncoderEngine(tmp_path / "a").label_probabilities([request], ("no", "yes"))
    assert 0 < labels.probabilities[1] < 1


def test_it_never_sees_what_it_will_judge(corpus: Path) -> None:
    rows = tuned_encoder.read_rows(source(), corpus, 0)
    everything = tuned_encoder.read_rows(source(exclude=[]), corpus, 0)
    assert {row.question for row in everything} - {row.question for row in rows} == {"the fever of fever 0"}
    assert all(isinstance(row, QuestionAnswer) for row in rows)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_that_it_will_judge_teaches_nothing(corpus: Path, tmp_path: Path, side: str) -> None:
    everything = tuned_encoder.read_rows(source(exclude=[]), corpus, 0)
    answer = everything[5].answer
    (tmp_path / "sft.jsonl").write_text((corpus / "sft.jsonl").read_text())
    row = preference_row("New?", **{"chosen": "x"} | {side: answer})
    (tmp_path / "held_out.json").write_text(json.dumps([row]))
    rows = tuned_encoder.read_rows(source(), tmp_path, 0)
    assert rows == [row for row in everything if row.answer != answer] and rows


def test_too_few_rows_are_said(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold at least 250 rows"):
        tuned_encoder.make(source(batch_size=50), corpus / "start", corpus, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_calibration_is_a_logistic_regression() -> None:
    # Where each similarity has its share of yes, the curve goes through both.
    similarities = [0.2] * 10 + [0.6] * 10
    calibration = tuned_encoder.calibrate(similarities, [True] * 2 + [False] * 8 + [True] * 9 + [False])
    assert calibration.probability(0.2) == pytest.approx(0.2, abs=1e-4)
    assert calibration.probability(0.6) == pytest.approx(0.9, abs=1e-4)
