"""medqa.compare: paired differences, recomputed by hand."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from medqa import compare, metrics
from medqa.records import Answer
from medqa.runtime.errors import UserError
from medqa.runtime.sections import CompareParams, Guards

GUARDS = Guards(
    max_repetition_rise=0.05,
    max_length_ratio=1.5,
    max_cut_off_rise=0.05,
    max_chosen_logprob_drop=0.5,
    max_exam_unreadable_rise=0.1,
    max_exam_accuracy_drop=0.1,
)
PARAMS = CompareParams(bootstrap_samples=200, tie=0.02, guards=GUARDS)
TEMPLATE = Answer(
    id="",
    kind="open",
    text="So.",
    finish_reason="stop",
    tokens=2,
    key_point_recall=0.0,
    token_f1=0.5,
    rouge_l=0.4,
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
    truncated_chars=0,
    unscored="",
    chosen_tokens=2,
    reference_logprob=-3.0,
    reference_tokens=4,
    judge="judge (x)",
)


def answers(*scores: float | None, exam: int = 0) -> list[Answer]:
    """Answers with these scores (and recall a tenth of them), and some to multiple-choice questions."""
    told = [
        replace(TEMPLATE, id=f"q{n}", score=score, key_point_recall=(score or 0) / 10)
        for n, score in enumerate(scores)
    ]
    return told + [replace(TEMPLATE, id=f"x{n}", kind="exam", correct=True, score=1.0) for n in range(exam)]


MODELS = {
    "base": answers(0.1, 0.5, 0.9, 0.5, 0.5, None, 0.3, exam=2),
    "sft": answers(0.6, 0.51, 0.2, 0.52, 0.49, 0.9, None, exam=2),
    "dpo": answers(0.7, 0.6, 0.2, 0.9, 0.9, 0.9, 0.9, exam=2),
}


def test_differences_are_what_one_counts_by_hand() -> None:
    result = compare.compare(MODELS, PARAMS, seed=0)
    assert set(result) == {
        "verdict",
        "failed_guards",
        "guards",
        "sft_over_base",
        "dpo_over_sft",
        "dpo_over_base",
    }
    step = result["sft_over_base"]
    gains = [0.5, 0.01, -0.7, 0.02, -0.01]  # the unscored and the multiple choice are left out
    assert step["compared"] == 5
    assert step["score_gain"] == pytest.approx(fmean(gains))
    assert step["token_f1_gain"] == 0
    # What needs no judge is compared where the judge was silent too.
    assert step["paired"] == 7
    assert step["key_point_recall_gain"] == pytest.approx(fmean([*gains, 0.9, -0.3]) / 10)
    # A gain of exactly `tie` is a tie, though 0.52 - 0.5 > 0.02 in binary.
    assert (step["wins"], step["losses"], step["ties"]) == (0.2, 0.2, 0.6)
    assert (result["dpo_over_sft"]["compared"], result["dpo_over_base"]["compared"]) == (6, 6)


OTHER = {
    "token_f1": ("token_f1", [0.75, 0.5], 0.125),
    "rouge_l": ("rouge_l", [0.6, 0.4], 0.1),
    "reference_logprob": ("reference_logprob", [-1.0, -3.0], (3 - 1) / 4 / 2),  # nats per token
    "repetition": ("repetition", [0.5, 0.0], 0.25),
    "cut_off": ("finish_reason", ["length", "stop"], 0.5),
}


@pytest.mark.parametrize("measure", OTHER)
@pytest.mark.parametrize("score", [0.5, None], ids=["judged", "unscored"])
def test_gains_without_a_judge_are_what_one_counts_by_hand(measure: str, score: float | None) -> None:
    field, values, gain = OTHER[measure]
    before = answers(score, score, exam=1)
    after = [replace(row, **{field: value}) for row, value in zip(before, [*values, values[0]], strict=True)]
    step = compare.compare({"base": before, "sft": after, "dpo": after}, PARAMS, seed=0)["sft_over_base"]
    assert step[f"{measure}_gain"] == pytest.approx(gain)
    assert step[f"{measure}_gain_low"] <= gain <= step[f"{measure}_gain_high"]
    assert all(step[f"{name}_gain"] == 0 for name in OTHER if name != measure)
    assert (step["paired"], step["compared"], "wins" in step) == (
        2,
        0 if score is None else 2,
        score is not None,
    )


def test_what_one_of_the_models_left_undone_is_in_no_pair() -> None:
    before = answers(0.5, 0.5)
    undone = replace(before[0], finish_reason="failed", score=None, token_f1=0.0)
    unread = replace(before[1], reference_logprob=None, reference_tokens=None)
    step = compare.compare({"base": before, "sft": [undone, unread], "dpo": before}, PARAMS, seed=0)[
        "sft_over_base"
    ]
    assert (step["paired"], step["compared"], step["token_f1_gain"]) == (1, 1, 0)
    assert "reference_logprob_gain" not in step


def test_what_one_of_the_models_left_undone_is_in_no_guard() -> None:
    before = answers(0.5, 0.5, exam=2)
    failed = [before[0], before[2]]
    undone = [
        replace(row, finish_reason="failed", tokens=0, correct=row.correct and False)
        if row in failed
        else row
        for row in before
    ]
    unread = [replace(row, chosen_logprob=None, chosen_tokens=None) for row in before]
    assert (
        compare.regressions(undone, before)
        == compare.regressions(before, undone)
        == compare.regressions(before, before)
    )
    for after, old in ((unread, before), (before, unread)):
        assert "chosen_logprob_drop" not in compare.regressions(after, old)


@pytest.mark.parametrize("step", ["sft_over_base", "dpo_over_sft", "dpo_over_base"])
@pytest.mark.parametrize("measure", ["score", "key_point_recall"])
def test_the_interval_holds_the_mean(step: str, measure: str) -> None:
    given = compare.compare(MODELS, PARAMS, seed=0)[step]
    assert given[f"{measure}_gain_low"] < given[f"{measure}_gain"] < given[f"{measure}_gain_high"]
    assert given["wins"] + given["losses"] + given["ties"] == pytest.approx(1)


def test_the_same_answers_differ_in_nothing() -> None:
    same = compare.compare(dict.fromkeys(("base", "sft", "dpo"), MODELS["base"]), PARAMS, seed=0)[
        "dpo_over_base"
    ]
    assert (same["score_gain"], same["score_gain_low"], same["score_gain_high"], same["ties"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("other", [answers(0.1), answers(0.1, 0.2, 0.3), answers(0.1, exam=1)])
def test_different_questions_are_refused(other: list[Answer]) -> None:
    with pytest.raises(UserError, match="different questions; rerun the stage evaluate"):
        compare.compare({"base": answers(0.1, 0.2), "sft": answers(0.1, 0.2), "dpo": other}, PARAMS, seed=0)


def test_nothing_to_compare_has_no_mean() -> None:
    nothing = dict.fromkeys(("base", "sft", "dpo"), answers(exam=1))
    result = compare.compare(nothing, PARAMS, seed=0)
    assert (result["dpo_over_sft"], result["verdict"]) == ({"paired": 0, "compared": 0}, "no clear change")


def test_the_table_has_a_mean_for_each_model_and_measure(tmp_path: Path) -> None:
    compare.write_table(tmp_path / "table.tsv", MODELS)
    lines = [line.split("\t") for line in (tmp_path / "table.tsv").read_text().splitlines()]
    assert lines[0] == ["measure", "mean"]
    means = {measure: float(mean) for measure, mean in lines[1:]}
    names = ("score", "key_point_recall", "token_f1", "rouge_l", "repetition", "cut_off")
    assert list(means) == [f"{measure} of {name}" for measure in names for name in MODELS]
    assert all(0 <= mean <= 1 for mean in means.values())
    assert means["score of base"] == pytest.approx(fmean([0.1, 0.5, 0.9, 0.5, 0.5, 0.3]), abs=1e-4)
    assert means["token_f1 of dpo"] == 0.5


def steady(**changes) -> list[Answer]:
    """Eight open answers and four to multiple choice, changed all alike."""
    told = [replace(TEMPLATE, id=f"q{n}", **changes) for n in range(8)]
    exam = {"choice": "B", "correct": True} | {
        name: changes[name] for name in ("choice", "correct") if name in changes
    }
    return [row for row in told if row.correct is None] + [
        replace(TEMPLATE, id=f"x{n}", **exam) for n in range(4)
    ]


@pytest.mark.parametrize(
    ("changes", "failed", "verdict"),
    [
        ({}, "", "no clear change"),
        ({"score": 0.6}, "", "improved"),
        ({"score": 0.4}, "", "worse"),
        ({"score": 0.6, "repetition": 0.05}, "", "improved"),
        ({"score": 0.6, "repetition": 0.06}, "repetition_rise", "worse"),
        ({"score": 0.6, "tokens": 3}, "", "improved"),
        ({"score": 0.6, "tokens": 4}, "length_ratio", "worse"),
        ({"score": 0.6, "tokens": 1}, "length_ratio", "worse"),
        ({"score": 0.6, "tokens": 0}, "length_ratio", "worse"),
        ({"score": 0.6, "finish_reason": "length"}, "cut_off_rise", "worse"),
        ({"score": 0.6, "chosen_logprob": -2.0}, "", "improved"),
        ({"score": 0.6, "chosen_logprob": -2.1}, "chosen_logprob_drop", "worse"),
        ({"tokens": 4, "repetition": 1.0}, "repetition_rise, length_ratio", "worse"),
    ],
)
def test_the_verdict_needs_the_interval_and_every_guard(changes: dict, failed: str, verdict: str) -> None:
    result = compare.compare({"base": steady(), "sft": steady(), "dpo": steady(**changes)}, PARAMS, seed=0)
    assert (result["failed_guards"], result["verdict"]) == (failed, verdict)


def test_forgetting_multiple_choice_fails_two_guards() -> None:
    forgot = [
        replace(row, choice="", correct=False) if row.correct else replace(row, score=0.9) for row in steady()
    ]
    result = compare.compare({"base": steady(), "sft": steady(), "dpo": forgot}, PARAMS, seed=0)
    assert (
        result["failed_guards"] == "exam_unreadable_rise, exam_accuracy_drop" and result["verdict"] == "worse"
    )
    assert result["guards"]["exam_unreadable_rise"] == 1.0


def test_different_judges_are_refused() -> None:
    other = [replace(row, judge="another (y)") for row in steady()]
    with pytest.raises(UserError, match="different judges; rerun the stage evaluate"):
        compare.compare({"base": steady(), "sft": steady(), "dpo": other}, PARAMS, seed=0)


@pytest.mark.parametrize("difference", [0.0, 0.1, -0.2])
def test_intervals_and_verdicts_are_right_as_often_as_they_say(difference: float) -> None:
    """1,000 evaluations of 184 questions in which half of the answers stay alike and the others move by
    steps.
    """
    rng = np.random.default_rng(4)
    covered = improved = 0
    for trial in range(1000):
        moved = rng.choice(
            [0, -0.5, -0.25, 0.25, 0.5, 1, -1], p=[0.5, 0.1, 0.12, 0.12, 0.1, 0.03, 0.03], size=184
        )
        gains = moved + 2 * difference * (rng.random(184) < 0.5)
        step = metrics.named_interval("score_gain", gains, seed=trial, samples=600)
        covered += step["score_gain_low"] <= difference <= step["score_gain_high"]
        improved += compare.verdict(step, []) == "improved"
    assert 930 <= covered <= 970
    assert improved <= 50 if difference <= 0 else improved >= 500
