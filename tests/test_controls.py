"""medqa.controls: half of the pairs turned round, and pairs that the reference ranks."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from medqa import controls, curves, jsonl
from medqa.records import Judged, Pair
from medqa.runtime import folders, params
from stages import control, evaluate

ROOT = Path(__file__).parent.parent

# A floor that no margin of the oracle reaches.
PARAMS = params.read_params(ROOT / "params.yaml").pairs.model_copy(update={"min_margin": 0.9})
MANY = [
    Pair(f"q{number}", f"Why {number}?", f"good {number}", f"bad {number}", 0.9, 0.1) for number in range(401)
]


def turned(pairs: list[Pair], seed: int = 0) -> set[str]:
    """The ids of the pairs that the placebo turns round."""
    made = controls.placebo_pairs(pairs, seed)
    return {new.id for new, old in zip(made, pairs, strict=True) if new != old}


@pytest.mark.parametrize("count", [0, 1, 2, 9, 400, 401])
def test_exactly_half_of_the_pairs_are_turned_round_and_nothing_else_changes(count: int) -> None:
    made = controls.placebo_pairs(MANY[:count], seed=0)
    assert [row.id for row in made] == [row.id for row in MANY[:count]]
    assert len(turned(MANY[:count])) == count // 2
    for new, old in zip(made, MANY, strict=False):
        sides = {(new.chosen, new.chosen_score), (new.rejected, new.rejected_score)}
        assert sides == {(old.chosen, old.chosen_score), (old.rejected, old.rejected_score)}
        assert new.question == old.question


def test_which_pairs_are_turned_round_depends_on_seed_and_ids_alone() -> None:
    shuffled = random.Random(1).sample(MANY, len(MANY))
    assert turned(shuffled) == turned(MANY) != turned(MANY, seed=1)
    first_half = {row.id for row in MANY[:200]}
    assert 70 < len(turned(MANY) & first_half) < 130


def candidates(question: int, *texts: str, reference: str = "fever cough pain") -> list[Judged]:
    """Candidates that the judge ranks in their order, and of which it gave the last one no score."""
    rows = []
    for sample, text in enumerate(texts):
        score = 0.9 - sample / 10 if sample < len(texts) - 1 else None
        scores = dict.fromkeys(("accuracy", "completeness", "key_points", "score"), score)
        common = {"id": f"q{question}#{sample}", "question_id": f"q{question}", "sample": sample}
        common |= {"question": "Why?", "reference": reference, "text": text, "finish_reason": "stop"}
        rows.append(Judged(**common, **scores, mass=0.9, truncated_chars=0, unscored=""))
    return rows


JUDGED = [
    *candidates(1, "nothing", "fever", "fever cough pain"),  # F1 0, 0.5 and 1
    *candidates(2, "fever rest", "fever cough rest"),  # 0.4 and 0.667
    *candidates(3, "rest", "sleep"),  # a tie
    *candidates(4, "fever cough", "rest"),  # 0.8 and 0
]


def test_the_oracle_ranks_by_the_reference_and_takes_the_clearest() -> None:
    rows = controls.oracle_pairs(JUDGED, PARAMS, 9)
    assert [(row.id, row.chosen, row.rejected) for row in rows] == [
        ("q1", "fever cough pain", "nothing"),
        ("q2", "fever cough rest", "fever rest"),
        ("q4", "fever cough", "rest"),
    ]
    assert (rows[0].chosen_score, rows[0].rejected_score) == (1.0, 0.0)
    assert [row.id for row in controls.oracle_pairs(JUDGED, PARAMS, 2)] == ["q1", "q4"]
    assert [row.id for row in controls.oracle_pairs(JUDGED, PARAMS, 1)] == ["q1"]


def test_the_oracle_obeys_the_other_rules_for_pairs() -> None:
    narrow = PARAMS.model_copy(update={"max_length_ratio": 2.0})
    assert [row.id for row in controls.oracle_pairs(JUDGED, narrow, 9)] == ["q2", "q4"]


def test_a_control_that_is_off_has_empty_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads neither models nor rows: none of them is there."""
    monkeypatch.chdir(ROOT)  # its params.yaml switches the oracle off
    absent = dict.fromkeys(("base", "adapter", "judged", "pairs"), tmp_path / "absent")
    curve, metrics = tmp_path / "oracle.tsv", tmp_path / "oracle.json"
    made = {"out": tmp_path / "oracle", "control_pairs": tmp_path / "pairs.jsonl"}
    line = control.main("oracle", **absent, **made, curve=curve, metrics=metrics)
    assert line == "control.oracle is false, so there is no oracle"
    assert folders.is_empty(made["out"]) and made["control_pairs"].read_text() == jsonl.NO_ROWS
    assert curves.read_curve(curve, allow_empty=True)["loss"] == []
    assert json.loads(metrics.read_text()) == {"pairs": 0}
    line = evaluate.main(
        tmp_path / "absent", made["out"], tmp_path / "absent", tmp_path / "answers.jsonl", metrics
    )
    assert line.endswith("oracle is empty, so there is nothing to evaluate")
    assert (tmp_path / "answers.jsonl").read_text() == jsonl.NO_ROWS
    assert json.loads(metrics.read_text())["questions"] == 0


def test_a_control_that_is_off_loads_no_torch() -> None:
    code = "import sys, stages.control, stages.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
