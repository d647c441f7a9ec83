"""medqa.calibration: the truth is in the interval as often as promised, and each number by hand."""

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from test_compare import TEMPLATE

from medqa import calibration, compare, metrics
from medqa.people_scores import PersonScore
from medqa.records import Answer

TRIALS = 1000


def rows(scores: list[float], name: str) -> list[Answer]:
    """Open answers of a model with these judged scores."""
    return [replace(TEMPLATE, id=f"q{n:03}", text=f"{name} {n}", score=each) for n, each in enumerate(scores)]


def scored(answers: list[Answer], lenience: float, count: int) -> list[PersonScore]:
    """People's scores of the first answers: that much lower than the judge's."""
    return [PersonScore(row.id, row.text, row.score - lenience, "anna") for row in answers[:count]]


RNG = np.random.default_rng(7)
SCORES = {
    name: [float(each) for each in RNG.uniform(low, low + 0.3, 100)]
    for name, low in (("base", 0.3), ("sft", 0.5), ("dpo", 0.6))
}
ANSWERS = {name: rows(scores, name) for name, scores in SCORES.items()}


def simulate(size: int, scored_size: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """People's and a judge's scores, (trials, size): the judge is 24 points more lenient, and errs."""
    rng = np.random.default_rng(size + scored_size)
    people = rng.binomial(4, 0.45, (TRIALS, size)) / 4
    return people, people + 0.24 + rng.normal(0, noise, people.shape)


@pytest.mark.parametrize("noise", [0.1, 0.3, 3.0], ids=["good", "poor", "silent"])
@pytest.mark.parametrize(("size", "scored_size"), [(1000, 50), (300, 40), (300, 20)])
def test_the_interval_covers_the_truth(size: int, scored_size: int, noise: float) -> None:
    people, judge = simulate(size, scored_size, noise)
    labelled, remaining = judge[:, :scored_size], judge[:, scored_size:]
    mean, low, high = calibration.calibrated_mean(people[:, :scored_size], labelled, remaining)
    covered = np.mean((low <= 0.45) & (high >= 0.45))
    assert 0.93 <= covered <= 0.97
    assert abs(mean.mean() - 0.45) < 0.01 and abs(judge.mean() - 0.69) < 0.02
    # Never clearly wider than what people alone say, and narrower with a good judge.
    _, low_alone, high_alone = calibration.t_interval(people[:, :scored_size])
    ratio = np.mean(high - low) / np.mean(high_alone - low_alone)
    assert ratio < (0.6 if noise == 0.1 else 1.03)


def test_paired_gains_of_a_judge_that_loves_the_policy_are_corrected() -> None:
    """The judge finds a gain of 0.24 where people find none."""
    rng = np.random.default_rng(1)
    gains = rng.normal(0, 0.2, (TRIALS, 500))
    judged = gains + 0.24 + rng.normal(0, 0.1, gains.shape)
    _, low, high = calibration.calibrated_mean(gains[:, :40], judged[:, :40], judged[:, 40:])
    assert 0.93 <= np.mean((low <= 0) & (high >= 0)) <= 0.97
    assert np.mean(judged.mean(axis=1) > 0.2) == 1


def test_a_calibrated_mean_by_hand() -> None:
    people, judge, remaining = np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.8, 0.8]), np.array([0.6, 1.0, 0.2])
    weight = 0.15 / ((1 + 3 / 3) * np.var([*judge, *remaining], ddof=1))  # cov is (0.5 * 0.4 + 0.5 * 0.2) / 2
    corrected = people - weight * judge
    mean, low, high = calibration.calibrated_mean(people, judge, remaining)
    assert mean == pytest.approx(0.5 - weight * 0.6 + weight * 0.6)
    variance = corrected.var(ddof=1) / 3 + weight**2 * np.var([*judge, *remaining], ddof=1) / 3
    assert (high - low) / 2 == pytest.approx(metrics.t_quantile(0.975, 1) * variance**0.5)


def test_a_constant_judge_leaves_the_mean_of_people() -> None:
    people = np.linspace(0, 1, 21)
    for rest in (0, 1, 50):
        mean, low, high = calibration.calibrated_mean(people, np.full(21, 0.7), np.full(rest, 0.7))
        assert mean == pytest.approx(0.5) and low < 0.5 < high


def test_the_summary_is_what_one_counts_by_hand() -> None:
    lenience = {"base": 0.1, "sft": 0.1, "dpo": 0.3}
    people = [row for name, points in lenience.items() for row in scored(ANSWERS[name], points, 30)]
    stale = [PersonScore("q000", "an answer of another run", 0.5, "anna")]
    empty = [PersonScore("q031", "dpo 31", None, "anna")]
    result = calibration.summary(ANSWERS, [*people, *stale, *empty], compare.COMPARISONS)
    assert [result[name] for name in ("people", "scores", "empty", "stale")] == [1, 91, 1, 1]
    for name, points in lenience.items():
        model = result["models"][name]
        assert model["scored"] == 30 and model["score"] == pytest.approx(fmean(SCORES[name]))
        assert [model[f"bias{end}"] for end in ("_low", "", "_high")] == pytest.approx([points] * 3)
        assert model["correlation"] == pytest.approx(1)
        assert model["calibrated_score"] == pytest.approx(model["score"] - points, abs=0.02)
        assert model["calibrated_score_low"] < model["score"] - points < model["calibrated_score_high"]
    assert set(result["comparisons"]) == {"sft_over_base", "dpo_over_sft", "dpo_over_base"}
    gain = result["comparisons"]["dpo_over_sft"]
    assert gain["score_gain"] == pytest.approx(fmean(SCORES["dpo"]) - fmean(SCORES["sft"]))
    # The judge is 0.2 more lenient to DPO than to SFT: all of the gain, and more.
    assert gain["calibrated_score_gain_high"] < 0 < gain["score_gain"]


def test_without_scores_there_is_nothing() -> None:
    assert calibration.summary(ANSWERS, [], compare.COMPARISONS) == {}
    empty = [PersonScore("q000", "base 0", None, "anna")]
    assert calibration.summary(ANSWERS, empty, compare.COMPARISONS) == {}


def test_a_few_scores_are_only_counted() -> None:
    few = scored(ANSWERS["dpo"], 0.2, calibration.MIN_SCORED - 1)
    result = calibration.summary(ANSWERS, few, compare.COMPARISONS)
    assert result["models"] == {"base": {"scored": 0}, "sft": {"scored": 0}, "dpo": {"scored": 19}}
    assert result["comparisons"]["dpo_over_sft"] == {"scored": 0}


def test_unscored_and_multiple_choice_answers_are_in_no_mean() -> None:
    changed = list(ANSWERS["dpo"])
    changed[0], changed[1] = replace(changed[0], score=None), replace(changed[1], correct=True)
    people = scored(ANSWERS["dpo"], 0.2, 30)
    result = calibration.summary(ANSWERS | {"dpo": changed}, people, compare.COMPARISONS)
    assert result["models"]["dpo"]["scored"] == 28
    assert result["models"]["dpo"]["score"] == pytest.approx(fmean(SCORES["dpo"][2:]))


def test_scores_of_several_people_are_one_mean() -> None:
    people = scored(ANSWERS["dpo"], 0.1, 30)
    second = [replace(row, score=row.score - 0.2, person="ben") for row in people]
    model = calibration.summary(ANSWERS, [*people, *second], compare.COMPARISONS)["models"]["dpo"]
    assert model["scored"] == 30 and model["bias"] == pytest.approx(0.2)
