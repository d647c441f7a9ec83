"""How far labelled pairs let one trust the judge: beside naive baselines, and its bias for length."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from medqa import metrics
from medqa.baselines import judge_wins, likelier_wins, longer_wins, more_similar_wins
from medqa.columns import collect
from medqa.records import Answer, JudgedPair
from medqa.text import words


def scored_pairs(pairs: Sequence[JudgedPair], judge: str) -> list[JudgedPair]:
    """The labelled pairs that this judge scored on both sides."""
    return [
        pair for pair in pairs if pair.judge == judge and None not in (pair.chosen_score, pair.rejected_score)
    ]


def over_baselines(pairs: Sequence[JudgedPair], seed: int, samples: int) -> dict[str, Any]:
    """How much more often the judge agrees with the labels than three naive baselines, with 95% intervals.

    `over_length` is over the choice by words alone, `over_likelihood` over the choice by likelihood under the
    base model, and `over_similarity` over the choice by the cosine with the question under the encoder, each
    in the direction that agrees more (`length_choice`: longer or shorter): to beat *longer wins* is nothing
    where shorter wins, and either is at least as good as a coin. Ties count as half, and so does a pair with
    a side that the base could not read.
    """
    result: dict[str, Any] = {"pairs": len(pairs)}
    if not pairs:
        return result
    agreed = [judge_wins(pair) for pair in pairs]
    result |= metrics.named("agreement", metrics.share_interval(agreed, seed, samples))
    for name, (wins, choices) in BASELINES.items():
        naive = [wins(pair) for pair in pairs]
        forward = fmean(naive) >= 0.5
        naive = naive if forward else [1 - win for win in naive]
        result |= {f"{name}_choice": choices[0 if forward else 1], f"{name}_wins": fmean(naive)}
        differences = [win - baseline for win, baseline in zip(agreed, naive, strict=True)]
        result |= metrics.named_interval(f"over_{name}", differences, seed, samples)
    return result


BASELINES = {
    "length": (longer_wins, ("longer", "shorter")),
    "likelihood": (likelier_wins, ("likelier", "less likely")),
    "similarity": (more_similar_wins, ("more similar", "less similar")),
}
NEEDED = ("length", "likelihood")  # without a clear advantage over each of these the judge shows nothing


def findings(trust: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """Whether the judge clearly beats each needed baseline, from `over_baselines`: name, holds, sentence."""
    return [(f"over_{baseline}", *_finding(baseline, trust)) for baseline in NEEDED]


def _finding(baseline: str, trust: dict[str, Any]) -> tuple[bool, str]:
    if not trust["pairs"]:
        return False, "no labelled pair has scores of the judge that evaluates"
    name = f"over_{baseline}"
    holds = trust[f"{name}_low"] > 0
    agreement = f"the judge agrees with the labels in {trust['agreement']:.3f} of {trust['pairs']} pairs"
    naive = f"choosing the {trust[f'{baseline}_choice']} answer ({trust[f'{baseline}_wins']:.3f})"
    comparison = "more often than" if holds else "not clearly more often than"
    return holds, f"{agreement}, {comparison} {naive}, by {metrics.describe(trust, name)}"


def length_adjusted(
    pairs: Sequence[JudgedPair], answers: Iterable[tuple[Answer, Answer]], seed: int, samples: int
) -> dict[str, float]:
    """The mean gain in score without what the judge gives for length alone, with a 95% interval.

    On labelled pairs, where quality is known, least squares fit `margin = label + bias * log(words ratio)`. A
    pair counts in both orders, with both signs, so that `label` is the intercept of the pairs with the chosen
    side first. The adjusted gain of a question is its gain less `bias * log(words ratio)` of its two answers.
    The bootstrap draws pairs and questions. The idea is that of length-controlled AlpacaEval (Dubois et al.
    2024), which regresses on the run's own lengths, and so takes away what a model gains by truly saying
    more: labels avoid that. `answers` are the later and the earlier model's, both scored. Without pairs or
    answers the result is empty.
    """
    columns = collect(answers, {"gain": _gain, "growth": _growth})
    gains, growth = columns["gain"], columns["growth"]
    if not pairs or not len(gains):
        return {}
    margins = np.array([pair.chosen_score - pair.rejected_score for pair in pairs])
    ratios = np.array([_log_ratio(pair.chosen_words, pair.rejected_words) for pair in pairs])
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(samples):
        drawn, questions = (rng.integers(0, len(each), len(each)) for each in (pairs, gains))
        bias = slope(ratios[drawn], margins[drawn])
        means.append(gains[questions].mean() - bias * growth[questions].mean())
    low, high = np.percentile(means, metrics.bootstrap_percentiles(min(len(pairs), len(gains))))
    bias = slope(ratios, margins)
    adjusted = float(gains.mean() - bias * growth.mean())
    result = {"bias": bias, "growth": float(growth.mean())}
    return result | metrics.named("adjusted_gain", (adjusted, float(low), float(high)))


def slope(values: np.ndarray, responses: np.ndarray) -> float:
    """The slope of the least-squares line with an intercept; 0 where the values do not vary."""
    centred = values - values.mean()
    variation = float(centred @ centred)
    return float(centred @ responses) / variation if variation > 1e-12 else 0.0


def _gain(answers: tuple[Answer, Answer]) -> float:
    after, before = answers
    return after.score - before.score


def _growth(answers: tuple[Answer, Answer]) -> float:
    return _log_ratio(*(len(words(row.text)) for row in answers))


def _log_ratio(words_after: int, words_before: int) -> float:
    # An empty answer has no logarithm; it counts as a word.
    return math.log(max(1, words_after) / max(1, words_before))
