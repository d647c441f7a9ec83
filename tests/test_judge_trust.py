"""medqa.judge_trust: the judge beside naive baselines on labelled pairs, and its bias for length."""

from dataclasses import replace

import numpy as np
import pytest
from fake_trial import JUDGE, Texts, honest, labelled_pairs, simulate

from medqa import judge_trust


def loves_length(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    return 0.2 + 0.5 * texts.quality + 0.2 * np.log(texts.words / 30)


def test_only_pairs_with_two_scores_of_this_judge_count() -> None:
    pairs = labelled_pairs(honest, 4, np.random.default_rng(0))
    odd = [replace(pairs[0], judge="another (y)"), replace(pairs[1], rejected_score=None)]
    assert judge_trust.scored_pairs([*odd, *pairs[2:]], JUDGE) == pairs[2:]


def test_the_judge_beside_the_baselines_is_what_one_counts_by_hand() -> None:
    (pair,) = labelled_pairs(honest, 1, np.random.default_rng(0))
    right = replace(pair, chosen_score=0.9, rejected_score=0.1, chosen_words=9, rejected_words=9)
    tie = replace(right, chosen_score=0.1, chosen_words=3, chosen_logprob=-9.0, rejected_logprob=-2.0)
    likelier = replace(right, chosen_logprob=-1.0, rejected_logprob=-2.0)
    result = judge_trust.over_baselines([likelier, replace(right, chosen_logprob=None), tie], 0, 100)
    agreement, shorter, likelier_wins = (1 + 1 + 0.5) / 3, (0.5 + 0.5 + 1) / 3, (1 + 0.5 + 0) / 3
    assert result["pairs"] == 3 and result["agreement"] == pytest.approx(agreement)
    assert (result["length_choice"], result["likelihood_choice"]) == ("shorter", "likelier")
    assert result["length_wins"] == pytest.approx(shorter)
    assert result["over_length"] == pytest.approx(agreement - shorter)
    assert result["over_likelihood"] == pytest.approx(agreement - likelier_wins)
    assert judge_trust.over_baselines([], 0, 100) == {"pairs": 0}


def test_a_judge_of_real_text_that_beats_longer_wins_alone_beats_nothing() -> None:
    """It agreed in 0.52 of the pairs, and *longer wins* in 0.46: *shorter wins* in 0.54."""
    (pair,) = labelled_pairs(honest, 1, np.random.default_rng(0))
    pairs = [
        replace(
            pair,
            chosen_score=float(n % 50 < 26),
            rejected_score=0.5,
            chosen_words=9 + 2 * (n // 50 < 46),
            rejected_words=10,
        )
        for n in range(5000)
    ]
    result = judge_trust.over_baselines(pairs, 0, 100)
    assert (result["agreement"], result["length_wins"]) == (pytest.approx(0.52), pytest.approx(0.54))
    assert result["over_length_low"] < 0


def test_the_bias_for_length_is_taken_from_the_labels_and_not_from_the_run() -> None:
    """DPO's answers are 1.4 times as long and truly better: only what the judge pays for length is taken."""
    trial = simulate(0, gain=0.1, judge=loves_length, growth=1.4, questions=300, pairs=400)
    rows = [
        pair for pair in zip(trial.models["dpo"], trial.models["sft"], strict=True) if pair[0].correct is None
    ]
    result = judge_trust.length_adjusted(trial.pairs, rows, 0, 200)
    assert result["bias"] == pytest.approx(0.2, abs=0.05)
    assert result["growth"] == pytest.approx(np.log(1.4), abs=0.01)
    assert result["adjusted_gain"] == pytest.approx(0.5 * 0.1, abs=0.02)
    assert result["adjusted_gain_low"] < 0.5 * 0.1 < result["adjusted_gain_high"]


def test_without_variation_of_length_nothing_is_adjusted() -> None:
    trial = simulate(0, gain=0.1, judge=loves_length, growth=1.4)
    rows = list(zip(trial.models["dpo"], trial.models["sft"], strict=True))
    level = [replace(pair, chosen_words=30, rejected_words=30) for pair in trial.pairs]
    result = judge_trust.length_adjusted(level, rows, 0, 100)
    raw = np.mean([after.score - before.score for after, before in rows])
    assert (result["bias"], result["adjusted_gain"]) == (0, pytest.approx(raw))
    assert (
        judge_trust.length_adjusted([], rows, 0, 100) == judge_trust.length_adjusted(level, [], 0, 100) == {}
    )


@pytest.mark.parametrize(("values", "responses", "slope"), [([0, 1, 2], [1, 3, 5], 2), ([1, 1], [0, 9], 0)])
def test_a_slope_has_an_intercept(values: list[float], responses: list[float], slope: float) -> None:
    assert judge_trust.slope(np.array(values), np.array(responses)) == slope


def test_an_empty_answer_counts_as_a_word() -> None:
    trial = simulate(0)
    rows = [(replace(trial.models["dpo"][0], text=""), replace(trial.models["sft"][0], text="a b c"))]
    assert judge_trust.length_adjusted(trial.pairs, rows, 0, 100)["growth"] == pytest.approx(-np.log(3))


def test_the_adjusted_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 150 simulated judges that pay for length; the truth is half of the gain in quality."""
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        pairs = labelled_pairs(loves_length, 60, rng)
        trial = simulate(0, questions=1)
        row = trial.models["sft"][0]
        gains = rng.normal(0.05 + 0.2 * np.log(1.4), 0.2, 60).tolist()
        rows = [
            (replace(row, score=0.5 + gain, text="a " * 14), replace(row, score=0.5, text="a " * 10))
            for gain in gains
        ]
        result = judge_trust.length_adjusted(pairs, rows, seed, 100)
        covered += result["adjusted_gain_low"] <= 0.05 <= result["adjusted_gain_high"]
    assert 135 <= covered <= 148
