"""medqa.compare: paired differences, recomputed by hand."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from fake_trial import honest, labelled_pairs

from medqa import compare, guards, metrics
from medqa.records import Answer
from medqa.runtime.errors import UserError
from medqa.runtime.sections import CompareParams, Guards

GUARDS = Guards(
    max_repetition_rise=0.05,
    max_phrase_rise=0.25,
    max_length_ratio=1.5,
    max_cut_off_rise=0.05,
    max_unscored_rise=0.05,
    max_chosen_logprob_drop=0.5,
    max_exam_unreadable_rise=0.1,
    max_exam_accuracy_drop=0.1,
    max_group_drop=0.05,
)
PARAMS = CompareParams(bootstrap_samples=200, tie=0.02, max_recited=0.1, guards=GUARDS)
TEMPLATE = Answer(
    id="",
    kind="open",
    text="So.",
    finish_reason="stop",
    tokens=2,
    key_point_recall=0.0,
    token_f1=0.5,
    rouge_l=0.4,
    coverage=0.6,
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
    rejected_tokens=2,
)
AGREED = labelled_pairs(honest, 100, np.random.default_rng(0))  # of a good judge


def compared(models: dict[str, list[Answer]]) -> dict[str, Any]:
    """The metrics of `compare`, with a judge that agrees with the labels."""
    return compare.compare(models, AGREED, PARAMS, seed=0)


def answers(*scores: float | None, exam: int = 0) -> list[Answer]:
    """Answers with these scores (recall is a tenth of them), and `exam` answers to multiple choice."""
    open_answers = [
        replace(TEMPLATE, id=f"q{n}", score=score, key_point_recall=(score or 0) / 10)
        for n, score in enumerate(scores)
    ]
    return open_answers + [
        replace(TEMPLATE, id=f"x{n}", kind="exam", correct=True, score=1.0) for n in range(exam)
    ]


MODELS = {
    "base": answers(0.1, 0.5, 0.9, 0.5, 0.5, None, 0.3, exam=2),
    "sft": answers(0.6, 0.51, 0.2, 0.52, 0.49, 0.9, None, exam=2),
    "dpo": answers(0.7, 0.6, 0.2, 0.9, 0.9, 0.9, 0.9, exam=2),
}
EVIDENCE = ("failed_guards", "guards", "failed_guards_over_base", "guards_over_base")
EVIDENCE += ("judge", "length", "recited", "worst_group")
WITHOUT_CONTROLS = ("sft_over_base", "dpo_over_sft", "dpo_over_base")


def test_differences_are_what_one_counts_by_hand() -> None:
    result = compared(MODELS)
    assert set(result) == {"verdict", "reason", "conditions", *EVIDENCE, *WITHOUT_CONTROLS}
    comparison = result["sft_over_base"]
    gains = [0.5, 0.01, -0.7, 0.02, -0.01]  # the unscored and the multiple choice are left out
    assert comparison["compared"] == 5
    assert comparison["score_gain"] == pytest.approx(fmean(gains))
    assert comparison["token_f1_gain"] == 0
    # What needs no judge is compared where the judge was silent too.
    assert comparison["paired"] == 7
    assert comparison["key_point_recall_gain"] == pytest.approx(fmean([*gains, 0.9, -0.3]) / 10)
    # A gain of exactly `tie` is a tie, though 0.52 - 0.5 > 0.02 in binary.
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (0.2, 0.2, 0.6)
    assert (result["dpo_over_sft"]["compared"], result["dpo_over_base"]["compared"]) == (6, 6)


JUDGE_FREE = {
    "token_f1": ("token_f1", [0.75, 0.5], 0.125),
    "rouge_l": ("rouge_l", [0.6, 0.4], 0.1),
    "coverage": ("coverage", [0.8, 0.6], 0.1),
    "reference_logprob": ("reference_logprob", [-1.0, -3.0], (3 - 1) / 4 / 2),  # nats per token
    "preference_margin": ("rejected_logprob", [-3.0, -2.0], 0.25),  # half a nat per token, of one of two
    "repetition": ("repetition", [0.5, 0.0], 0.25),
    "cut_off": ("finish_reason", ["length", "stop"], 0.5),
}


@pytest.mark.parametrize("measure", JUDGE_FREE)
@pytest.mark.parametrize("score", [0.5, None], ids=["judged", "unscored"])
def test_gains_without_a_judge_are_what_one_counts_by_hand(measure: str, score: float | None) -> None:
    field, values, gain = JUDGE_FREE[measure]
    before = answers(score, score, exam=1)
    after = [replace(row, **{field: value}) for row, value in zip(before, [*values, values[0]], strict=True)]
    comparison = compared({"base": before, "sft": after, "dpo": after})["sft_over_base"]
    assert comparison[f"{measure}_gain"] == pytest.approx(gain)
    assert comparison[f"{measure}_gain_low"] <= gain <= comparison[f"{measure}_gain_high"]
    assert all(comparison[f"{name}_gain"] == 0 for name in JUDGE_FREE if name != measure)
    assert (comparison["paired"], comparison["compared"]) == (2, 0 if score is None else 2)
    assert ("wins" in comparison) == (score is not None)


def test_failed_answers_are_in_no_comparison() -> None:
    before = answers(0.5, 0.5)
    failed = replace(before[0], finish_reason="failed", score=None, token_f1=0.0)
    unread = replace(before[1], reference_logprob=None, reference_tokens=None)
    models = {"base": before, "sft": [failed, unread], "dpo": before}
    comparison = compared(models)["sft_over_base"]
    assert (comparison["paired"], comparison["compared"], comparison["token_f1_gain"]) == (1, 1, 0)
    assert "reference_logprob_gain" not in comparison


def test_failed_answers_are_in_no_guard() -> None:
    before = answers(0.5, 0.5, exam=2)
    failed = {"finish_reason": "failed", "tokens": 0}
    after = [
        replace(before[0], **failed),
        before[1],
        replace(before[2], **failed, correct=False),
        before[3],
    ]
    unread = [replace(row, chosen_logprob=None, chosen_tokens=None) for row in before]
    same = guards.regressions(before, before)
    assert guards.regressions(after, before) == guards.regressions(before, after) == same
    assert "chosen_logprob_drop" not in guards.regressions(unread, before)
    assert "chosen_logprob_drop" not in guards.regressions(before, unread)


@pytest.mark.parametrize("name", WITHOUT_CONTROLS)
@pytest.mark.parametrize("measure", ["score", "key_point_recall"])
def test_the_interval_contains_the_mean(name: str, measure: str) -> None:
    comparison = compared(MODELS)[name]
    low, mean, high = (comparison[f"{measure}_gain{end}"] for end in ("_low", "", "_high"))
    assert low < mean < high
    assert comparison["wins"] + comparison["losses"] + comparison["ties"] == pytest.approx(1)


def test_the_same_answers_differ_in_nothing() -> None:
    models = dict.fromkeys(MODELS, MODELS["base"])
    same = compared(models)["dpo_over_base"]
    assert (same["score_gain"], same["score_gain_low"], same["score_gain_high"], same["ties"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("other", [answers(0.1), answers(0.1, 0.2, 0.3), answers(0.1, exam=1)])
def test_different_questions_are_refused(other: list[Answer]) -> None:
    with pytest.raises(UserError, match="different questions; rerun the stage evaluate"):
        compared({"base": answers(0.1, 0.2), "sft": answers(0.1, 0.2), "dpo": other})


def test_nothing_to_compare_has_no_mean() -> None:
    nothing = dict.fromkeys(MODELS, answers(exam=1))
    result = compared(nothing)
    empty = {"paired": 0, "compared": 0, "by": {}, "small_groups": 0}
    assert (result["dpo_over_sft"], result["verdict"]) == (empty, "no clear change")
    assert result["worst_group"] == {}


def uniform(**changes) -> list[Answer]:
    """Eight open answers and four to multiple choice, all with the same values."""
    return [replace(TEMPLATE, id=f"q{n}", **changes) for n in range(8)] + [
        replace(TEMPLATE, id=f"x{n}", choice="B", correct=True) for n in range(4)
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
        ({"score": 0.6, "chosen_logprob": -2.0, "rejected_logprob": -3.0}, "", "improved"),
        ({"score": 0.6, "chosen_logprob": -2.0}, "", "worse"),  # its margin falls
        ({"score": 0.6, "chosen_logprob": -2.1}, "chosen_logprob_drop", "worse"),
        ({"score": 0.6, "key_point_recall": -0.1}, "", "worse"),
        ({"tokens": 4, "repetition": 1.0}, "repetition_rise, length_ratio", "worse"),
    ],
)
def test_the_verdict_needs_the_interval_and_every_guard(changes: dict, failed: str, verdict: str) -> None:
    result = compared({"base": uniform(), "sft": uniform(), "dpo": uniform(**changes)})
    assert (result["failed_guards"], result["verdict"]) == (failed, verdict)


def test_forgetting_multiple_choice_fails_two_guards() -> None:
    forgot = [
        replace(row, choice="", correct=False) if row.correct else replace(row, score=0.9)
        for row in uniform()
    ]
    result = compared({"base": uniform(), "sft": uniform(), "dpo": forgot})
    assert (
        result["failed_guards"] == "exam_unreadable_rise, exam_accuracy_drop" and result["verdict"] == "worse"
    )
    assert result["guards"]["exam_unreadable_rise"] == 1.0


def test_controls_are_compared_where_they_are_there() -> None:
    models = MODELS | {"placebo": MODELS["sft"]}
    result = compared(models)
    over_sft = {key: value for key, value in result["dpo_over_sft"].items() if "group" not in key}
    assert result["dpo_over_placebo"] | {"by": {}} == over_sft and "oracle_over_sft" not in result
    result = compared(models | {"oracle": MODELS["base"]})
    assert result["oracle_over_sft"]["score_gain"] == pytest.approx(-result["sft_over_base"]["score_gain"])
    assert "oracle_over_dpo" in result


def test_the_group_that_gains_least_over_the_base_is_the_worst() -> None:
    def model(score: float, treatment: float) -> list[Answer]:
        """Six answers on symptoms, five on treatment, four on tests, and a failed and an exam answer."""
        symptoms = [replace(TEMPLATE, groups=("attribute: symptoms", "kind: open"), score=score)] * 6
        treatments = [replace(TEMPLATE, groups=("attribute: treatment", "kind: open"), score=treatment)] * 5
        tests = [replace(TEMPLATE, groups=("attribute: test", "kind: open"), score=0.0)] * 4
        unmeasured = [
            replace(symptoms[0], finish_reason="failed", score=None),
            replace(symptoms[0], correct=True, score=0.0),
        ]
        rows = [*symptoms, *treatments, *tests, *unmeasured]
        return [replace(row, id=f"q{number:02}") for number, row in enumerate(rows)]

    models = {"base": model(0.1, 0.3), "sft": model(0.6, 0.1), "dpo": model(0.9, 0.2)}
    result = compared(models)
    symptoms = {"rows": 6} | metrics.named("score_gain", (pytest.approx(0.8),) * 3)
    treatment = {"rows": 5} | metrics.named("score_gain", (pytest.approx(-0.1),) * 3)
    over_base = result["dpo_over_base"]
    assert over_base["by"] == {"attribute: symptoms": symptoms, "attribute: treatment": treatment}
    assert over_base["small_groups"] == 1
    assert result["worst_group"] == {"name": "attribute: treatment", **treatment}
    assert result["dpo_over_sft"]["by"]["attribute: treatment"]["score_gain"] == pytest.approx(0.1)
    assert "by" not in result["sft_over_base"]


def test_different_judges_are_refused() -> None:
    other = [replace(row, judge="another (y)") for row in uniform()]
    with pytest.raises(UserError, match="different judges; rerun the stage evaluate"):
        compared({"base": uniform(), "sft": uniform(), "dpo": other})


@pytest.mark.parametrize("difference", [0.0, 0.1, -0.2])
def test_intervals_are_right_as_often_as_they_say(difference: float) -> None:
    """1,000 evaluations of 184 questions: half of the answers stay alike, the others move by steps."""
    rng = np.random.default_rng(4)
    covered = improved = 0
    for trial in range(1000):
        moved = rng.choice(
            [0, -0.5, -0.25, 0.25, 0.5, 1, -1], p=[0.5, 0.1, 0.12, 0.12, 0.1, 0.03, 0.03], size=184
        )
        gains = moved + 2 * difference * (rng.random(184) < 0.5)
        comparison = metrics.named_interval("score_gain", gains, seed=trial, samples=600)
        covered += comparison["score_gain_low"] <= difference <= comparison["score_gain_high"]
        improved += comparison["score_gain_low"] > 0
    assert 930 <= covered <= 970
    assert improved <= 50 if difference <= 0 else improved >= 500


@pytest.mark.parametrize(
    ("changes", "margin"),
    [
        ({}, 0.5),
        ({"rejected_tokens": 4}, 0.0),  # per token of each
        ({"rejected_logprob": None, "rejected_tokens": None}, None),
        ({"chosen_logprob": None, "chosen_tokens": None}, None),
    ],
)
def test_the_preference_margin_is_per_token(changes: dict, margin: float | None) -> None:
    assert compare.preference_margin(replace(TEMPLATE, **changes)) == margin


def grouped(size: int, group: str, score: float, prefix: str) -> list[Answer]:
    scores = [score + 0.01 * (n % 2) for n in range(size)]
    return [
        replace(TEMPLATE, id=f"{prefix}{n:03}", groups=(group, "kind: open"), score=each)
        for n, each in enumerate(scores)
    ]


@pytest.mark.parametrize("unseen", [{"score": None}, {"finish_reason": "failed"}, {"correct": True}])
def test_groups_count_open_questions_with_two_scores(unseen: dict) -> None:
    before = grouped(9, "kind: x", 0.5, "a") + grouped(9, "kind: y", 0.5, "b")
    after = [replace(before[0], **unseen), *before[1:]]
    models = {"base": before, "sft": before, "dpo": after}
    assert compared(models)["dpo_over_base"]["by"]["kind: x"]["rows"] == 8
