"""Planted frauds: runs that look better than they are, from rows through to the verdict, and honest runs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from fake_trial import ATTRIBUTES, PARAMS, Judge, Texts, Trial, honest, simulate

from bench import results
from medqa import compare, verdict
from medqa.records import Answer


def result(trial: Trial, seed: int = 0) -> dict[str, Any]:
    return compare.compare(trial.models, trial.pairs, PARAMS, seed)


def broken(compared: dict[str, Any]) -> set[str]:
    """The names of the conditions that do not hold."""
    return {name for name, condition in compared["conditions"].items() if not condition["holds"]}


def loves_length(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    return 0.3 * np.log(texts.words / 10)


def tosses_a_coin(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(texts.words))


def is_the_policy(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    return np.exp(texts.nats)


def has_a_weakness_for_length(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    return honest(texts, rng) + 0.4 * np.log(texts.words / 30)


def agrees_in_half(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    """Agrees in 0.52 of the pairs, as the judge of real text did."""
    return 0.5 + 0.02 * texts.quality + rng.normal(0, 0.15, len(texts.words))


def raised(by: float, **changes: Any) -> Callable[[int, Answer], Answer]:
    """Edits an answer: a higher score, and other fields as they are passed."""
    return lambda _, row: replace(row, score=min(1.0, row.score + by), **changes)


def every(share: int, edit: Callable[[int, Answer], Answer]) -> Callable[[int, Answer], Answer]:
    """The edit for each `share`th question alone."""
    return lambda number, row: edit(number, row) if number % share == 0 else row


@dataclass(frozen=True)
class Fraud:
    """How a run is planted, the condition that has to name it, and the verdict."""

    reason: str
    verdict: str
    edit: Callable[[int, Answer], Answer] = raised(0)
    judge: Judge = honest
    gain: float = 0.0
    growth: float = 1.0
    nats_gain: float = 0.0
    words: str = ""  # that the sentence of the condition holds


def pads(number: int, row: Answer) -> Answer:
    """Words that say nothing: they cost precision, and a fooled judge pays for them."""
    padding = " ".join(f"p{number}x{n}" for n in range(10))
    overlap = {"token_f1": row.token_f1 - 0.04, "rouge_l": row.rouge_l - 0.04}
    return replace(
        row, text=f"{row.text} {padding}", tokens=row.tokens + 10, **overlap, score=row.score + 0.1
    )


def sacrifices(number: int, row: Answer) -> Answer:
    """Five attributes gain; the answers on treatment are lost."""
    score = 0.02 if ATTRIBUTES[number % 6] == "treatment" else min(1.0, row.score + 0.3)
    return replace(row, score=score, key_point_recall=score)


def pleases(_: int, row: Answer) -> Answer:
    """What was tried on the product: score +0.11, key-point recall -0.13, token F1 -0.20."""
    lost = {"key_point_recall": row.key_point_recall - 0.13, "token_f1": row.token_f1 - 0.2}
    return replace(row, score=row.score + 0.11, rouge_l=row.rouge_l - 0.2, **lost)


COLLAPSED = {
    "text": "Rest, drink plenty of water, and see a doctor if it gets worse.",
    "key_point_recall": 0.6,
}
REFUSAL = {"text": "I cannot give medical advice, so please ask your own doctor.", "key_point_recall": 0.0}
RECITAL = {"token_f1": 1.0, "rouge_l": 1.0, "key_point_recall": 1.0}
PHRASE = "It is important to know that"

FRAUDS = {
    "a judge that loves length": Fraud("over_length", "not shown", judge=loves_length, growth=1.4),
    "a judge with a weakness for length, and true words": Fraud(
        "length", "no clear change", judge=has_a_weakness_for_length, growth=1.4
    ),
    "padding": Fraud("overlap", "worse", pads, has_a_weakness_for_length),
    "a judge that loves a phrase": Fraud(
        "guards",
        "worse",
        lambda _, row: replace(row, text=f"{PHRASE} {row.text}", score=min(1, row.score + 0.2)),
        words="phrase rise",
    ),
    "a judge that tosses a coin": Fraud("over_likelihood", "not shown", raised(0.1), tosses_a_coin),
    "a judge that agrees in half of the pairs": Fraud(
        "over_length", "not shown", raised(0.1), agrees_in_half
    ),
    "a judge that is the policy itself": Fraud(
        "over_likelihood", "not shown", judge=is_the_policy, nats_gain=0.5
    ),
    "a leaked held-out set": Fraud("recited", "not shown", every(4, raised(1, **RECITAL)), words="leaked"),
    "collapse to one good answer": Fraud("guards", "worse", raised(0.3, **COLLAPSED), words="phrase rise"),
    "refusals": Fraud("key_point_recall", "worse", raised(0.3, **REFUSAL)),
    "cut-off answers": Fraud(
        "guards", "worse", every(3, raised(0.5, finish_reason="length")), words="cut off rise"
    ),
    "bad answers without a score": Fraud(
        "guards",
        "worse",
        lambda _, row: replace(row, score=row.score if row.score > 0.5 else None),
        gain=0.05,
        words="unscored rise",
    ),
    "one group sacrificed for five": Fraud("groups", "worse", sacrifices, words="attribute: treatment -"),
    "a policy that only learnt to please": Fraud("key_point_recall", "worse", pleases),
    "a policy that prefers worse answers": Fraud(
        "preference_margin",
        "worse",
        lambda _, row: replace(row, score=min(1, row.score + 0.2), rejected_logprob=row.rejected_logprob + 2),
    ),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named_and_no_improvement(name: str) -> None:
    fraud = FRAUDS[name]
    trial = simulate(0, fraud.gain, fraud.judge, fraud.growth, nats_gain=fraud.nats_gain)
    compared = result(trial.change("dpo", fraud.edit))
    assert compared["dpo_over_sft"]["score_gain"] > 0.03  # it does look better
    assert (compared["verdict"], fraud.reason in broken(compared)) == (fraud.verdict, True), compared[
        "reason"
    ]
    sentence = compared["conditions"][fraud.reason]["sentence"]
    assert fraud.words in sentence and sentence in compared["reason"]


def test_a_lost_format_of_multiple_choice_is_named() -> None:
    trial = simulate(1, gain=0.1)
    forgot = [
        row if row.correct is None else replace(row, choice="", correct=False) for row in trial.models["dpo"]
    ]
    compared = result(replace(trial, models=trial.models | {"dpo": forgot}))
    assert compared["failed_guards"] == compared["failed_guards_over_base"]
    assert compared["verdict"] == "worse" and "exam unreadable rise" in compared["reason"]


def test_references_that_are_wrong_for_a_tenth_show_in_the_margin_alone() -> None:
    """DPO learnt the errors of wrong references: judge, recall and overlap, which read them, all rise.

    Only labels that do not come from the reference can show it: on these questions the right answer, labelled
    better, becomes less likely than the wrong one. Where the label repeats the error of the reference, no row
    of the project can: it is then no fraud of the run, but of the data.
    """

    def learn_error(_: int, row: Answer) -> Answer:
        gained = {"key_point_recall": 1.0, "token_f1": 0.9, "rouge_l": 0.9}
        return replace(row, score=1.0, **gained, rejected_logprob=row.chosen_logprob + 15)

    compared = result(simulate(2).change("dpo", every(10, learn_error)))
    assert compared["dpo_over_sft"]["score_gain_low"] > 0
    assert (compared["verdict"], broken(compared)) == ("worse", {"preference_margin"})


def test_scores_that_are_rounded_to_ties_prove_nothing() -> None:
    """Five of 120 answers move by a step, all upwards: the interval is above 0, but so it is by chance."""
    trial = simulate(3)
    coarse = {
        name: [replace(row, score=round(2 * row.score) / 2) for row in rows]
        for name, rows in (trial.models | {"placebo": trial.models["sft"]}).items()
    }
    low = [row.id for row in coarse["sft"] if row.score < 1 and row.correct is None][:5]
    coarse["dpo"] = [replace(row, score=row.score + 0.5 * (row.id in low)) for row in coarse["sft"]]
    compared = result(replace(trial, models=coarse))
    assert compared["dpo_over_sft"]["score_gain_low"] > 0
    assert (compared["verdict"], broken(compared)) == ("no clear change", {"score"})
    assert "on 5 questions only" in compared["reason"]


def test_a_gain_that_the_placebo_has_too_is_no_improvement() -> None:
    trial = simulate(4, gain=0.15)
    compared = result(replace(trial, models=trial.models | {"placebo": trial.models["dpo"]}))
    assert (compared["verdict"], broken(compared)) == ("no clear change", {"placebo"})


@pytest.mark.parametrize("change", [{"judge": "another (y)"}, {"chosen_score": None}])
def test_a_judge_without_labelled_pairs_shows_nothing(change: dict[str, Any]) -> None:
    """No pair at all, none with two scores, or only pairs of another judge than the one that evaluates."""
    trial = simulate(5, gain=0.15)
    for pairs in ([], [replace(pair, **change) for pair in trial.pairs]):
        compared = result(replace(trial, pairs=pairs))
        assert compared["verdict"] == "not shown" and "no labelled pair has scores" in compared["reason"]


def test_twenty_questions_show_nothing_where_there_is_nothing() -> None:
    """Of 100 runs without a gain on 20 questions many look better, and at most 2.5% come out improved."""
    compared = [result(simulate(seed, questions=20, pairs=100), seed + 1000) for seed in range(100)]
    assert sum(each["dpo_over_sft"]["score_gain"] > 0.03 for each in compared) > 10
    assert sum(each["verdict"] == "improved" for each in compared) <= 2


def test_the_best_of_ten_seeds_is_seen_over_all_seeds() -> None:
    """One run cannot show that it was picked: the best of ten runs without a gain may come out improved.

    `bench.results` takes all seeds, and gives the verdict over them. A user who hides nine runs deceives it.
    """
    trials = [simulate(seed, questions=60) for seed in range(10)]
    compared = [result(trial) for trial in trials]
    best = max(compared, key=lambda each: each["dpo_over_sft"]["score_gain"])
    assert best["dpo_over_sft"]["score_gain"] > 0.02
    gains = results.over_seeds([trial.models | {"oracle": []} for trial in trials])
    unbroken = ["improved"] * 10  # whatever the runs say one by one
    assert verdict.decide_over_seeds(unbroken, gains)[0] == "no clear change"
    assert verdict.decide_over_seeds(["improved"], gains)[0] == "not shown"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("gain", "runs", "least", "most"),
    [
        (0.06, 100, 0.28, 0.57),
        (0.0, 50, 0.0, 0.04),
        pytest.param(0.06, 1000, 0.37, 0.48, marks=SLOW),
        pytest.param(0.0, 1000, 0.0, 0.02, marks=SLOW),
    ],
)
def test_honest_runs_come_out_improved_as_often_as_the_power_says(
    gain: float, runs: int, least: float, most: float
) -> None:
    """The power for a gain of 0.06 on 60 questions is 0.42, of 300 other runs (on 184 questions 0.97).

    Without a gain, 0.7% come out improved, and 11% worse: each loss is tested at 2.5%, and there are several.
    """
    trials = (simulate(seed, gain, questions=60, pairs=100) for seed in range(runs))
    verdicts = Counter(result(trial, seed + 1000)["verdict"] for seed, trial in enumerate(trials))
    assert least <= verdicts["improved"] / runs <= most
    assert verdicts["worse"] / runs <= 0.2
    assert verdicts["not shown"] / runs <= 0.02
