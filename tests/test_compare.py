"""medqa.compare: paired differences, recomputed by hand."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from medqa import compare
from medqa.compare import Params
from medqa.params import UserError
from medqa.records import Answer

PARAMS = Params(bootstrap_samples=200, tie=0.02)
TEMPLATE = Answer(
    id="",
    kind="open",
    text="So.",
    finish="stop",
    tokens=2,
    key_point_recall=0.0,
    token_f1=0.5,
    repetition=0.0,
    choice="",
    correct=None,
    chosen_logprob=-1.0,
    rejected_logprob=-2.0,
    accuracy=0.5,
    completeness=0.5,
    key_points=0.5,
    score=0.5,
    mass=0.9,
    unscored="",
)


def answers(*scores: float | None, exam: int = 0) -> list[Answer]:
    """Answers with these scores (and recall a tenth of them), and some to multiple-choice questions."""
    told = [
        replace(TEMPLATE, id=f"q{n}", score=score, key_point_recall=(score or 0) / 10) for n, score in enumerate(scores)
    ]
    return told + [replace(TEMPLATE, id=f"x{n}", kind="exam", correct=True, score=1.0) for n in range(exam)]


MODELS = {
    "base": answers(0.1, 0.5, 0.9, 0.5, 0.5, None, 0.3, exam=2),
    "sft": answers(0.6, 0.51, 0.2, 0.52, 0.49, 0.9, None, exam=2),
    "dpo": answers(0.7, 0.6, 0.2, 0.9, 0.9, 0.9, 0.9, exam=2),
}


def test_differences_are_what_one_counts_by_hand() -> None:
    result = compare.compare(MODELS, PARAMS, seed=0)
    assert set(result) == {"sft_over_base", "dpo_over_sft", "dpo_over_base"}
    step = result["sft_over_base"]
    gains = [0.5, 0.01, -0.7, 0.02, -0.01]  # the unscored and the multiple choice are left out
    assert step["compared"] == 5
    assert step["score_gain"] == pytest.approx(fmean(gains))
    assert step["key_point_recall_gain"] == pytest.approx(fmean(gains) / 10)
    assert step["token_f1_gain"] == 0
    # A gain of exactly `tie` is a tie, though 0.52 - 0.5 > 0.02 in binary.
    assert (step["wins"], step["losses"], step["ties"]) == (0.2, 0.2, 0.6)
    assert (result["dpo_over_sft"]["compared"], result["dpo_over_base"]["compared"]) == (6, 6)


@pytest.mark.parametrize("step", ["sft_over_base", "dpo_over_sft", "dpo_over_base"])
@pytest.mark.parametrize("measure", ["score", "key_point_recall"])
def test_the_interval_holds_the_mean(step: str, measure: str) -> None:
    given = compare.compare(MODELS, PARAMS, seed=0)[step]
    assert given[f"{measure}_gain_low"] < given[f"{measure}_gain"] < given[f"{measure}_gain_high"]
    assert given["wins"] + given["losses"] + given["ties"] == pytest.approx(1)


def test_the_same_answers_differ_in_nothing() -> None:
    same = compare.compare(dict.fromkeys(("base", "sft", "dpo"), MODELS["base"]), PARAMS, seed=0)["dpo_over_base"]
    assert (same["score_gain"], same["score_gain_low"], same["score_gain_high"], same["ties"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("other", [answers(0.1), answers(0.1, 0.2, 0.3), answers(0.1, exam=1)])
def test_different_questions_are_refused(other: list[Answer]) -> None:
    with pytest.raises(UserError, match="different questions; rerun the stage evaluate"):
        compare.compare({"base": answers(0.1, 0.2), "sft": answers(0.1, 0.2), "dpo": other}, PARAMS, seed=0)


def test_nothing_to_compare_has_no_mean() -> None:
    nothing = dict.fromkeys(("base", "sft", "dpo"), answers(None, exam=1))
    assert compare.compare(nothing, PARAMS, seed=0)["dpo_over_sft"] == {"compared": 0}


def test_the_table_has_a_mean_for_each_model_and_measure(tmp_path: Path) -> None:
    compare.write_table(tmp_path / "table.tsv", MODELS)
    lines = [line.split("\t") for line in (tmp_path / "table.tsv").read_text().splitlines()]
    assert lines[0] == ["measure", "mean"]
    assert len(lines) == 1 + 3 * len(compare.MEASURES)
    means = {measure: float(mean) for measure, mean in lines[1:]}
    assert means["score of base"] == pytest.approx(fmean([0.1, 0.5, 0.9, 0.5, 0.5, 0.3]), abs=1e-4)
    assert means["token_f1 of dpo"] == 0.5
