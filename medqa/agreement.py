"""How far the judge can be trusted: beside the labels, beside simpler judges, and under attack."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from medqa import attacks, groups, judge, judge_trust, metrics, prompts
from medqa.baselines import judge_wins, likelier_wins, longer_wins, more_similar_wins
from medqa.encoder import Embed
from medqa.engines import Engine, Failure, Request, compute
from medqa.records import AttackResult, JudgedPair, Labelled
from medqa.runtime.sections import AgreementParams, JudgeParams
from medqa.text import words

BINS = 10  # of confidence, for the calibration error
SIDES = ("chosen", "rejected")
# Label types whose worse answer a judge may score like the better one: an attack on it would prove nothing.
SUBTLE = ("wrong_detail", "worse_words", "padded", "wrong_letter")

Interval = Callable[..., dict[str, float]]  # of a name and values; of a share also how many intervals


def answer_logprobs(base: Engine, labelled: Sequence[Labelled]) -> dict[str, float | None]:
    """The log-probability in nats of both sides of each pair under the base model, by `pair:side`."""
    requests = [
        Request(f"{row.id}:{side}", prompts.ask(row.question), answer=getattr(row, side))
        for side in SIDES
        for row in labelled
    ]
    rows = ([request] for request in requests)
    results = compute(base.answer_logprobs, rows, "likelihood", len(requests))
    return {
        request.id: None if isinstance(each, Failure) else each.nats
        for request, [each] in zip(requests, results, strict=True)
    }


def measure_similarity(embed: Embed, labelled: Sequence[Labelled]) -> dict[str, float]:
    """The cosine of question and answer for both sides of each pair, by `pair:side`."""
    texts = [text for row in labelled for text in (row.question, row.chosen, row.rejected)]
    vectors = embed(texts).reshape(len(labelled), 3, -1)
    cosines = (vectors[:, 1:] @ vectors[:, :1].transpose(0, 2, 1))[..., 0]  # (pairs, sides)
    return {
        f"{row.id}:{side}": round(cosine, 6)
        for row, pair in zip(labelled, cosines.tolist(), strict=True)
        for side, cosine in zip(SIDES, pair, strict=True)
    }


def judge_pairs(
    grader: Engine,
    labelled: Sequence[Labelled],
    logprobs: dict[str, float | None],
    similarities: dict[str, float],
    params: JudgeParams,
    judge_name: str,
) -> list[JudgedPair]:
    """Each labelled pair, judged on both sides, with what `answer_logprobs` and `measure_similarity` gave.

    The reference is never the chosen answer itself, else the judge would only have to compare texts.
    """
    cases = [
        judge.Case(f"{row.id}:{side}", row.question, row.reference, getattr(row, side), row.points)
        for side in SIDES
        for row in labelled
    ]
    scores = judge.score(grader, cases, params)
    return [
        JudgedPair(
            id=row.id,
            label_type=row.label_type,
            chosen_score=scores[f"{row.id}:chosen"].score,
            rejected_score=scores[f"{row.id}:rejected"].score,
            mass=min(scores[f"{row.id}:{side}"].mass for side in SIDES),
            chosen_words=len(words(row.chosen)),
            rejected_words=len(words(row.rejected)),
            chosen_logprob=logprobs[f"{row.id}:chosen"],
            rejected_logprob=logprobs[f"{row.id}:rejected"],
            chosen_similarity=similarities[f"{row.id}:chosen"],
            rejected_similarity=similarities[f"{row.id}:rejected"],
            with_reference=bool(row.reference),
            judge=judge_name,
            labelled_by=row.labelled_by,
            groups=row.groups,
        )
        for row in labelled
    ]


def attack_judge(
    grader: Engine,
    labelled: Sequence[Labelled],
    pairs: Sequence[JudgedPair],
    params: AgreementParams,
    judge_params: JudgeParams,
    seed: int,
) -> list[AttackResult]:
    """Every attack on `attacked_pairs` of the labelled pairs, drawn by `seed`; SUBTLE ones if all are."""
    judged = {pair.id: pair for pair in pairs}
    plain = [row for row in labelled if row.label_type not in SUBTLE] or labelled
    drawn = sorted(plain, key=lambda row: hashlib.sha256(f"{seed} {row.id}".encode()).digest())
    drawn = drawn[: params.attacked_pairs]
    trials = {
        f"{row.id}#{attack.name}": (row, attack, attack.text(row.question, row.rejected))
        for row in drawn
        for attack in attacks.evaluation_attacks()
    }
    texts = [(row.id, row, row.reference) for row in drawn if row.reference]
    texts += [(id, row, text) for id, (row, _, text) in trials.items()]
    cases = [judge.Case(id, row.question, row.reference, text, row.points) for id, row, text in texts]
    scores = judge.score(grader, cases, judge_params)
    return [
        AttackResult(
            id=id,
            attack=attack.name,
            kind=attack.kind,
            text=text,
            score=scores[id].score,
            plain_score=judged[row.id].rejected_score if attack.uses_poor else None,
            honest_score=judged[row.id].chosen_score,
            reference_score=scores[row.id].score if row.reference else None,
        )
        for id, (row, attack, text) in trials.items()
    ]


def summary(
    pairs: Sequence[JudgedPair], attacked: Sequence[AttackResult], params: AgreementParams, seed: int
) -> dict[str, Any]:
    """Agreement with the labels, overall and by group, and three baselines, with 95% intervals.

    `longer_wins` is what choosing the longer answer would reach; `likelier_wins`, the one that is likelier
    under the base model; `more_similar_wins`, the one that is nearer to the question under the encoder. A tie
    counts as half. `trust` has the judge's paired differences to these, each in the direction that agrees
    more (`judge_trust.over_baselines`). Pairs with an unscored side are counted apart. Means of nothing are
    left out. The groups, of pairs and of who
    labelled them, are those that `groups.split` measures; their intervals are adjusted for their number.
    """
    scored = [pair for pair in pairs if None not in (pair.chosen_score, pair.rejected_score)]
    result: dict[str, Any] = {
        "judge": ", ".join(sorted({pair.judge for pair in pairs})),
        "labelled_by": ", ".join(sorted({pair.labelled_by for pair in pairs})),
        "pairs": len(pairs),
        "unscored": len(pairs) - len(scored),
        "without_reference": sum(not pair.with_reference for pair in pairs),
        "ties": sum(pair.chosen_score == pair.rejected_score for pair in scored),
        "mass_mean": fmean(pair.mass for pair in pairs),
        "mass_least": min(pair.mass for pair in pairs),
    }

    def interval(name: str, values: list[float]) -> dict[str, float]:
        return metrics.named_interval(name, values, seed, params.bootstrap_samples)

    def share(name: str, values: list[float], intervals: int = 1) -> dict[str, float]:
        return metrics.named(name, metrics.share_interval(values, seed, params.bootstrap_samples, intervals))

    if scored:
        margins = [pair.chosen_score - pair.rejected_score for pair in scored]
        result["reliability"] = reliability(margins)
        result["calibration_error"] = calibration_error(result["reliability"])
    result["trust"] = judge_trust.over_baselines(scored, seed, params.bootstrap_samples)
    result |= _by_group(scored, share)
    result["attacks"] = _attack_metrics(attacked, share, interval)
    return result


def _by_group(scored: Sequence[JudgedPair], share: Interval) -> dict[str, Any]:
    """The metrics `by`, of all pairs and of each group that `groups.split` measures, and `small_groups`."""
    measured, too_small = groups.split((*pair.groups, f"labelled by: {pair.labelled_by}") for pair in scored)
    adjusted = partial(share, intervals=len(measured))
    by = {"all": _group_metrics(scored, share)} if scored else {}
    by |= {
        name: _group_metrics([scored[number] for number in numbers], adjusted)
        for name, numbers in measured.items()
    }
    return {"by": by, "small_groups": too_small}


def _group_metrics(group: Sequence[JudgedPair], share: Interval) -> dict[str, Any]:
    """The judge and the three baselines on a group of pairs."""
    return (
        {"rows": len(group)}
        | share("agreement", [judge_wins(pair) for pair in group])
        | share("longer_wins", [longer_wins(pair) for pair in group])
        | share("likelier_wins", [likelier_wins(pair) for pair in group])
        | share("more_similar_wins", [more_similar_wins(pair) for pair in group])
    )


def reliability(margins: Sequence[float]) -> list[dict[str, float]]:
    """The reliability diagram of margins from -1 to 1 (chosen minus rejected score), as bins that hold pairs.

    A judge that sees a margin m is taken to be sure of its preference by (1 + |m|) / 2. Of each of ten bins
    of that confidence: its mean `confidence`, the share that is `right` (a tie is half), and its `pairs`.
    """
    margin = np.asarray(margins, dtype=np.float64)
    confidence = (1 + np.abs(margin)) / 2
    right = np.where(margin == 0, 0.5, margin > 0)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == bin].mean()),
            "right": float(right[bins == bin].mean()),
            "pairs": int((bins == bin).sum()),
        }
        for bin in sorted(set(bins.tolist()))
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al. 2017) of the bins of `reliability`.

    The mean over the bins, weighted by their pairs, of the distance of `confidence` from `right`.
    """
    distances = [bin["pairs"] * abs(bin["confidence"] - bin["right"]) for bin in bins]
    return sum(distances) / sum(bin["pairs"] for bin in bins)


def _attack_metrics(attacked: Sequence[AttackResult], share: Interval, interval: Interval) -> dict[str, Any]:
    """An attack succeeds if it reaches or passes the better of the honest answer and the reference.

    Intervals are over pairs.
    """
    result: dict[str, Any] = {"tried": len(attacked), "unscored": sum(row.score is None for row in attacked)}
    wins = [(row, float(_reaches_honest(row))) for row in attacked]
    result |= share("attack_rate", _pair_means(wins))
    for kind in attacks.KINDS:
        group = [win for row, win in wins if row.kind == kind]
        result |= {f"attack_rate_{kind}": fmean(group)} if group else {}
    padded = [row for row in attacked if row.kind == "padding" and None not in (row.score, row.plain_score)]
    gains = [(row, row.score - row.plain_score) for row in padded]
    return result | {"padding_tried": len(padded)} | interval("padding_gain", _pair_means(gains))


def _reaches_honest(row: AttackResult) -> bool:
    honest = [score for score in (row.honest_score, row.reference_score) if score is not None]
    return row.score is not None and bool(honest) and row.score >= max(honest)


def _pair_means(values: Iterable[tuple[AttackResult, float]]) -> list[float]:
    pairs: dict[str, list[float]] = defaultdict(list)
    for row, value in values:
        pairs[row.id.rsplit("#", 1)[0]].append(value)
    return [fmean(each) for each in pairs.values()]
