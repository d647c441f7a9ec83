"""How far the judge can be trusted: beside people's labels, beside simpler judges, and under attack."""

import hashlib
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from medqa import attacks, metrics, prompts
from medqa.engines import Engine, naming
from medqa.records import AttackResult, JudgedPair, Labelled, Score
from medqa.runtime.sections import AgreementParams
from medqa.text import words

BINS = 10  # of confidence, for the calibration error

Interval = Callable[[str, list[float]], dict[str, float]]
Judge = Callable[[list[tuple[str, str, str]]], list[Score]]


def agree(score: Judge, base: Engine, labelled: Sequence[Labelled], judge_name: str) -> list[JudgedPair]:
    """Each labelled pair with both sides judged, and their log-probabilities under the base model.

    The reference is never the chosen answer itself, else the judge would only have to compare texts.
    """
    sides = ("chosen", "rejected")
    asked = [prompts.ask(row.question) for row in labelled]
    with naming([row.id for row in labelled]):
        # All of the base's part first: it may make room for the judge then.
        likely = [base.answer_logprobs(asked, [getattr(row, side) for row in labelled]) for side in sides]
        scores = [
            score([(row.question, row.reference, getattr(row, side)) for row in labelled]) for side in sides
        ]
    return [
        JudgedPair(
            id=row.id,
            label_type=row.label_type,
            chosen_score=chosen.score,
            rejected_score=rejected.score,
            mass=min(chosen.mass, rejected.mass),
            chosen_words=len(words(row.chosen)),
            rejected_words=len(words(row.rejected)),
            chosen_logprob=chosen_likely.nats if chosen_likely.tokens else None,
            rejected_logprob=rejected_likely.nats if rejected_likely.tokens else None,
            with_reference=bool(row.reference),
            judge=judge_name,
        )
        for row, chosen, rejected, chosen_likely, rejected_likely in zip(
            labelled, *scores, *likely, strict=True
        )
    ]


def attack(
    score: Judge, labelled: Sequence[Labelled], params: AgreementParams, seed: int
) -> list[AttackResult]:
    """Every attack on `attacked_pairs` of the labelled pairs, which `seed` draws."""
    drawn = sorted(labelled, key=lambda row: hashlib.sha256(f"{seed} {row.id}".encode()).digest())
    some = drawn[: params.attacked_pairs]
    trials = [
        (row, each, each.text(row.question, row.rejected))
        for row in some
        for each in attacks.evaluation_attacks()
    ]
    honest, poor, references = (
        dict(
            zip(
                (row.id for row in some),
                score([(row.question, row.reference, text(row)) for row in some]),
                strict=True,
            )
        )
        for text in (lambda row: row.chosen, lambda row: row.rejected, lambda row: row.reference)
    )
    with naming([f"{row.id}#{each.name}" for row, each, _ in trials]):
        given = score([(row.question, row.reference, text) for row, _, text in trials])
    return [
        AttackResult(
            id=f"{row.id}#{each.name}",
            attack=each.name,
            kind=each.kind,
            text=text,
            score=judged.score,
            plain_score=poor[row.id].score if each.uses_poor else None,
            honest_score=honest[row.id].score,
            reference_score=references[row.id].score if row.reference else None,
        )
        for (row, each, text), judged in zip(trials, given, strict=True)
    ]


def summary(
    agreed: Sequence[JudgedPair], attacked: Sequence[AttackResult], params: AgreementParams, seed: int
) -> dict[str, Any]:
    """Agreement with the labels, in all and by label type, beside two baselines, with 95% bootstrap
    intervals.

    `longer_wins` is what choosing the longer answer would reach, `likelier_wins` what choosing the answer
    that is likelier under the base model would. A tie counts as half. `over_longer` is the paired difference
    to the first. Pairs with an unscored side are counted apart. Means of nothing are left out.
    """
    scored = [row for row in agreed if row.chosen_score is not None and row.rejected_score is not None]
    result: dict[str, Any] = {
        "judge": ", ".join(sorted({row.judge for row in agreed})),
        "pairs": len(agreed),
        "unscored": len(agreed) - len(scored),
        "without_reference": sum(not row.with_reference for row in agreed),
        "ties": sum(row.chosen_score == row.rejected_score for row in scored),
        "mass_mean": fmean(row.mass for row in agreed),
        "mass_least": min(row.mass for row in agreed),
    }

    def interval(name: str, values: list[float]) -> dict[str, float]:
        return metrics.named_interval(name, values, seed, params.bootstrap_samples)

    def share(name: str, values: list[float]) -> dict[str, float]:
        return metrics.named(name, metrics.share_interval(values, seed, params.bootstrap_samples))

    if scored:
        result["calibration_error"] = calibration_error(
            [row.chosen_score - row.rejected_score for row in scored]
        )
        result |= interval("over_longer", [_judge(row) - _longer(row) for row in scored])
    groups = {"all": scored}
    for label_type in sorted({row.label_type for row in agreed}):
        groups[label_type] = [row for row in scored if row.label_type == label_type]
    result["by"] = {
        name: {"rows": len(rows)}
        | share("agreement", [_judge(row) for row in rows])
        | share("longer_wins", [_longer(row) for row in rows])
        | share("likelier_wins", [_likelier(row) for row in rows])
        for name, rows in groups.items()
        if rows
    }
    result["attacks"] = _attacks(attacked, share, interval)
    return result


def calibration_error(margins: Sequence[float]) -> float:
    """Expected calibration error (Guo et al. 2017) of margins between the preferred and the other answer, -1
    to 1.

    A judge that sees a margin m is taken to be sure of its preference by (1 + |m|) / 2. The error is the mean
    over ten bins of that confidence, weighted by their size, of how far it lies from the share that is right.
    """
    margin = np.asarray(margins, dtype=np.float64)
    sure = (1 + np.abs(margin)) / 2
    right = np.where(margin == 0, 0.5, margin > 0)
    bins = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return float(sum(abs((sure - right)[bins == place].sum()) for place in range(BINS)) / len(margin))


def beats_longer(result: dict[str, Any]) -> bool:
    """Whether the judge agrees with the labels clearly more often than *longer wins* does."""
    return result.get("over_longer_low", 0.0) > 0


def _attacks(attacked: Sequence[AttackResult], share: Interval, interval: Interval) -> dict[str, Any]:
    """An attack succeeds if it outranks the reference or the honest answer. Intervals are over pairs, not
    trials.
    """
    result: dict[str, Any] = {"tried": len(attacked), "unscored": sum(row.score is None for row in attacked)}
    wins = [(row, float(_outranks(row))) for row in attacked]
    result |= share("attack_rate", _by_pair(wins))
    for kind in attacks.KINDS:
        some = [win for row, win in wins if row.kind == kind]
        result |= {f"attack_rate_{kind}": fmean(some)} if some else {}
    padded = [row for row in attacked if row.kind == "padding" and None not in (row.score, row.plain_score)]
    gains = [(row, row.score - row.plain_score) for row in padded]
    return result | {"padding_tried": len(padded)} | interval("padding_gain", _by_pair(gains))


def _outranks(row: AttackResult) -> bool:
    honest = [score for score in (row.honest_score, row.reference_score) if score is not None]
    return row.score is not None and any(row.score > score for score in honest)


def _by_pair(values: list[tuple[AttackResult, float]]) -> list[float]:
    pairs: dict[str, list[float]] = {}
    for row, value in values:
        pairs.setdefault(row.id.rsplit("#", 1)[0], []).append(value)
    return [fmean(some) for some in pairs.values()]


def _judge(row: JudgedPair) -> float:
    return metrics.win(row.chosen_score, row.rejected_score)


def _longer(row: JudgedPair) -> float:
    return metrics.win(row.chosen_words, row.rejected_words)


def _likelier(row: JudgedPair) -> float:
    # A side that the base could not read says nothing.
    sides = (row.chosen_logprob, row.rejected_logprob)
    return 0.5 if None in sides else metrics.win(*sides)
