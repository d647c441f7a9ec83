"""The verdict on DPO: improved, no clear change, worse or not shown, each condition with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medqa import judge_trust
from medqa.metrics import describe
from medqa.runtime.sections import CompareParams

IMPROVED, NO_CHANGE, WORSE, NOT_SHOWN = VERDICTS = ("improved", "no clear change", "worse", "not shown")
LEAST_GROUP = 20  # questions, below which the change of a group is measured and not judged
LEAST_CHANGED = 6  # five signs that are all alike come by chance in 2 ** -5, which is over 2.5% (sign test)
LEAST_SEEDS = 3
SUMMARY = ("score", "placebo", "length", "groups")  # the conditions whose sentences explain *improved*
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """Whether a condition of *improved* holds, in a sentence, and the verdict where it does not."""

    name: str
    holds: bool
    sentence: str
    verdict: str


def findings(result: Metrics, params: CompareParams) -> list[Finding]:
    """Every condition on the metrics of `compare`, in the order in which they decide."""
    return [
        _guards("guards", "SFT", result["failed_guards"]),
        _guards("guards_over_base", "the base", result["failed_guards_over_base"]),
        *_judge_free(result["dpo_over_sft"]),
        *(Finding(*finding, NOT_SHOWN) for finding in judge_trust.findings(result["judge"])),
        _recited(result.get("recited", 0.0), params.max_recited),
        _groups(result["dpo_over_base"]["by"], params.guards.max_group_drop),
        _score(result["dpo_over_sft"]),
        _placebo(result.get("dpo_over_placebo")),
        _length(result["length"]),
        _people(result.get("people", {})),
    ]


def decide(conditions: Sequence[Finding]) -> tuple[str, str]:
    """The verdict and its reasons in words.

    The first condition that does not hold decides, and the reasons are all that do not hold, in this order,
    then the worst group. If all hold the verdict is *improved*, and the reasons are those of SUMMARY.
    """
    against = [finding for finding in conditions if not finding.holds]
    names = ("groups",) if against else SUMMARY
    supporting = {finding.name: finding for finding in conditions if finding.holds}
    reasons = [*against, *(supporting[name] for name in names if name in supporting)]
    return (against[0].verdict if against else IMPROVED), "; ".join(each.sentence for each in reasons)


def decide_over_seeds(verdicts: Sequence[str], gains: dict[str, dict[str, float]]) -> tuple[str, str]:
    """The verdict on several seeds: a run that was picked as the best of many proves nothing alone.

    `verdicts` are those of all seeds that were run; `gains` are those of `compare`, over seeds and questions.
    Improved needs three seeds, none of them worse or not shown, and intervals over seeds above 0.
    """
    against = [verdict for verdict in (NOT_SHOWN, WORSE) if verdict in verdicts]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in VERDICTS if each in verdicts)
    if against:
        return against[-1], f"by seed: {counts}"
    if len(verdicts) < LEAST_SEEDS:
        return NOT_SHOWN, f"there are {len(verdicts)} seeds; {LEAST_SEEDS} are needed (by seed: {counts})"
    names = [name for name in ("dpo_over_sft", "dpo_over_placebo") if name in gains]
    above = bool(names) and all(gains[name].get("score_gain_low", 0.0) > 0 for name in names)
    text = ", ".join(f"{describe(gains[name], 'score_gain')} {name.replace('_', ' ')}" for name in names)
    return (IMPROVED if above else NO_CHANGE), f"score over seeds and questions: {text} (by seed: {counts})"


def _guards(name: str, earlier: str, failed: str) -> Finding:
    limits = failed.replace("_", " ")
    sentence = (
        f"DPO exceeds a limit against {earlier}: {limits}" if failed else f"no guard fails against {earlier}"
    )
    return Finding(name, not failed, sentence, WORSE)


def _judge_free(gains: Metrics) -> list[Finding]:
    """What needs no judge: none of it may clearly fall.

    Token F1 and ROUGE-L both compare words with the reference. Another order of the same facts costs ROUGE-L
    alone, so that a loss of either counts unless the other clearly gains.
    """
    overlap = ("token_f1", "rouge_l")
    lost = [name for name in overlap if _clearly_falls(gains, f"{name}_gain")]
    gained = any(gains.get(f"{name}_gain_low", 0.0) > 0 for name in overlap)
    words = " and ".join(
        f"{label} by {describe(gains, f'{name}_gain')}"
        for name, label in zip(overlap, ("token F1", "ROUGE-L"), strict=True)
    )
    return [
        _not_falling(gains, "key_point_recall", "key-point recall"),
        Finding("overlap", not lost or gained, f"overlap with the reference changes, {words}", WORSE),
        _not_falling(gains, "preference_margin", "the log-probability margin of the answer labelled better"),
    ]


def _not_falling(gains: Metrics, name: str, label: str) -> Finding:
    sentence = f"{label} changes by {describe(gains, f'{name}_gain')}"
    return Finding(name, not _clearly_falls(gains, f"{name}_gain"), sentence, WORSE)


def _recited(share: float, limit: float) -> Finding:
    sentence = f"{share:.3f} of the answers repeat the reference (limit {limit:g})"
    if share > limit:
        sentence += ": held-out questions may have leaked into training"
    return Finding("recited", round(share, 6) <= limit, sentence, NOT_SHOWN)


def _groups(groups: Metrics, limit: float) -> Finding:
    """A group falls if its mean falls by more than the limit, and its adjusted interval lies below 0.

    Groups with few questions are not judged: their change may be chance, and their interval too narrow.
    """
    judged = {name: gains for name, gains in groups.items() if gains["rows"] >= LEAST_GROUP}
    if not judged:
        return Finding("groups", True, "no group of questions is large enough to be judged", WORSE)
    fallen = [
        name
        for name, gains in judged.items()
        if round(gains["score_gain"], 6) < -limit and gains["score_gain_high"] < 0
    ]
    worst = sorted(fallen or judged, key=lambda name: judged[name]["score_gain"])
    changes = ", ".join(
        f"{name} {describe(judged[name], 'score_gain')}" for name in worst[: len(fallen) or 1]
    )
    count = f"{len(judged)} groups of questions"
    sentence = (
        f"of {count} these fall against the base: " if fallen else f"the worst of {count} over the base is "
    )
    return Finding("groups", not fallen, sentence + changes, WORSE)


def _score(gains: Metrics) -> Finding:
    if "score_gain" not in gains:
        return Finding("score", False, "no question has two judged answers to compare", NO_CHANGE)
    changed = round((1 - gains["ties"]) * gains["compared"])
    sentence = f"the judge's score changes by {describe(gains, 'score_gain')} over SFT"
    if changed < LEAST_CHANGED:
        sentence += f", but on {changed} questions only: fewer than {LEAST_CHANGED} can agree by chance"
    holds = gains["score_gain_low"] > 0 and changed >= LEAST_CHANGED
    return Finding("score", holds, sentence, WORSE if _clearly_falls(gains, "score_gain") else NO_CHANGE)


def _placebo(gains: Metrics | None) -> Finding:
    if gains is None:
        return Finding("placebo", True, "no placebo was trained", NO_CHANGE)
    holds = gains.get("score_gain_low", 0.0) > 0
    sentence = f"the score is {describe(gains, 'score_gain')} above the placebo's"
    if not holds:
        sentence += ": pairs turned round at random may do as well"
    return Finding("placebo", holds, sentence, NO_CHANGE)


def _length(length: Metrics) -> Finding:
    if not length:
        return Finding("length", False, "the judge's bias for length is not known", NOT_SHOWN)
    bias = f"the judge gives {length['bias']:+.3f} per log of the words ratio"
    sentence = f"adjusted for length, the score changes by {describe(length, 'adjusted_gain')} ({bias})"
    return Finding("length", length["adjusted_gain_low"] > 0, sentence, NO_CHANGE)


def _people(people: Metrics) -> Finding:
    gains = people.get("comparisons", {}).get("dpo_over_sft", {})
    if "calibrated_score_gain" not in gains:
        return Finding("people", True, "too few answers have people's scores to calibrate the gain", WORSE)
    change = describe(gains, "calibrated_score_gain")
    sentence = f"calibrated by people's scores, the score changes by {change}"
    return Finding("people", not _clearly_falls(gains, "calibrated_score_gain"), sentence, WORSE)


def _clearly_falls(metrics: Metrics, name: str) -> bool:
    return bool(metrics.get(f"{name}_high", 0.0) < 0)
