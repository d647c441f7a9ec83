"""From metrics to the rows of the report's tables, each figure with its interval where it has one."""

from collections.abc import Sequence
from typing import Any

from medqa.report.charts import Dot, Series

BASE, SFT, DPO = Series("base", "base"), Series("SFT", "sft"), Series("DPO", "dpo")
MODELS = {"base": BASE, "sft": SFT, "dpo": DPO}
STEPS = {"sft_over_base": "SFT over base", "dpo_over_sft": "DPO over SFT", "dpo_over_base": "DPO over base"}
GAINS = {
    "score": "judged score",
    "key_point_recall": "key-point recall",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "reference_logprob": "log-likelihood of references, nats per token",
    "repetition": "repetition (less is better)",
    "cut_off": "share cut off (less is better)",
}
COMPARED = {
    "paired": "questions that both models answered",
    "compared": "of these, both judged",
    "wins": "share won by judged score",
    "ties": "share tied",
    "losses": "share lost",
}
BASELINES = {
    "agreement": Series("judge", "judge"),
    "longer_wins": Series("longer wins", "longer"),
    "likelier_wins": Series("likelier wins", "likelier"),
}
# In the order in which they are shown; what is not named here follows under its own name.
MEASURES = {
    "questions": "held-out questions",
    "failed": "questions that the model could not answer",
    "unscored": "unscored open questions",
    "score": "judged score, 0 to 1",
    "judged_accuracy": "judged accuracy",
    "judged_completeness": "judged completeness",
    "judged_key_points": "judged key points",
    "key_point_recall": "key-point recall (no judge)",
    "token_f1": "token F1 against the reference",
    "rouge_l": "ROUGE-L against the reference",
    "reference_logprob": "log-likelihood of the reference, nats per token",
    "exam_accuracy": "multiple choice right (0.25 is chance)",
    "exam_unreadable": "multiple choice unreadable",
    "preference_alignment": "preference alignment",
    "tokens": "tokens an answer",
    "cut_off": "cut off by the token limit",
    "repetition": "words said before (repetition)",
    "shortened": "open questions that the judge saw shortened",
    "chosen_logprob": "log-probability of the chosen answer, nats a token",
}
FATES = {
    "quarantined": "could not be read: quarantined",
    "other_kind": "of a kind not asked for",
    "contaminated": "leaked: a held-out question",
    "near_duplicate": "nearly leaked: almost a held-out question",
    "duplicate": "duplicate",
    "over_limit": "over the limit",
}
REASONS = {
    "unscored": "fewer than two candidates with a score",
    "too_few": "fewer than two candidates",
    "empty": "fewer than two scored candidates with a word",
    "same_text": "candidates with the same text",
    "tie": "margin at or under the floor",
    "cut_off": "the better one cut off",
    "length": "lengths too far apart",
}
GUARDS = {
    "repetition_rise": "rise in repetition",
    "length_ratio": "length, DPO to SFT",
    "cut_off_rise": "rise in share cut off",
    "chosen_logprob_drop": "drop in log-probability of chosen answers",
    "exam_unreadable_rise": "rise in unreadable multiple choice",
    "exam_accuracy_drop": "drop in multiple choice right",
}


def spoken(key: str) -> str:
    """A metric's key as words."""
    return key.replace("_", " ")


def cell(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """A figure and the ends of its interval; None where there is none."""
    return {
        "value": metrics.get(name),
        "low": metrics.get(f"{name}_low"),
        "high": metrics.get(f"{name}_high"),
    }


def dot(series: Series, metrics: dict[str, Any], name: str) -> list[Dot]:
    """A mark for a figure with an interval; none where the metrics leave it out."""
    found = cell(metrics, name)
    return [] if None in found.values() else [Dot(series, found["value"], found["low"], found["high"])]


def side_by_side(evaluations: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each measure, a cell for each model. Text and ends of intervals are no measures of their own."""
    keys = {
        key: None for one in evaluations.values() for key, value in one.items() if not isinstance(value, str)
    }
    measures = [key for key in keys if not key.endswith(("_low", "_high"))]
    ordered = [key for key in MEASURES if key in keys] + [key for key in measures if key not in MEASURES]
    return [
        {"label": MEASURES.get(key, spoken(key)), "cells": [cell(one, key) for one in evaluations.values()]}
        for key in ordered
    ]


def gains(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """Paired differences, a row for each measure and a cell for each two models; then over how many, and
    wins.
    """
    steps = [compare.get(key, {}) for key in STEPS]
    rows = [(label, f"{name}_gain", True) for name, label in GAINS.items()]
    rows += [(label, name, False) for name, label in COMPARED.items()]
    return [
        {"label": label, "signed": signed, "cells": [cell(step, of) for step in steps]}
        for label, of, signed in rows
    ]


def guards(compare: dict[str, Any], limits: dict[str, Any]) -> list[dict[str, Any]]:
    """What the verdict looks at besides the score, with its limit where the parameters name one."""
    broken = failed(compare)
    return [
        {
            "label": GUARDS.get(name, spoken(name)),
            "value": value,
            "limit": limits.get(f"max_{name}"),
            "failed": name in broken,
        }
        for name, value in compare.get("guards", {}).items()
    ]


def failed(compare: dict[str, Any]) -> dict[str, str]:
    """The guards that failed, by key, as words."""
    named = [name for name in compare.get("failed_guards", "").split(", ") if name]
    return {name: GUARDS.get(name, spoken(name)) for name in named}


def funnel(counts: dict[str, int]) -> list[dict[str, Any]]:
    """From the rows read to the rows kept of one output: what left, and the share of the rows read."""
    lost = [(label, counts.get(key, 0), "lost") for key, label in FATES.items()]
    steps = [("read", counts["read"], "whole"), *lost, ("kept", counts["kept"], "kept")]
    return _steps(steps, counts["read"])


def pair_funnel(questions: int, metrics: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """From the questions through candidates and scores to pairs. Candidates are counted by themselves."""
    judged, made = metrics["judge"], metrics["pairs"]
    reasons = {
        key.removeprefix("left_out_"): value for key, value in made.items() if key.startswith("left_out_")
    }
    candidates = metrics["generate"].get("candidates", 0)
    return [
        *_steps([("questions", questions, "whole")], questions),
        *_steps([("candidates written", candidates, "aside")], candidates),
        *_steps(
            [("candidates with a score", candidates - judged.get("judged_unscored", 0), "aside")], candidates
        ),
        *_steps(
            [(REASONS.get(key, spoken(key)), value, "lost") for key, value in reasons.items()], questions
        ),
        *_steps([("pairs", made.get("pairs", 0), "kept")], questions),
    ]


def agreement(by: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each label type: the judge, then the baselines."""
    return [
        {"label": spoken(name), "rows": one["rows"], "cells": [cell(one, key) for key in BASELINES]}
        for name, one in by.items()
    ]


def _steps(rows: Sequence[tuple[str, int, str]], whole: int) -> list[dict[str, Any]]:
    return [
        {"label": label, "rows": count, "share": count / whole if whole else 0.0, "style": style}
        for label, count, style in rows
        if count or style != "lost"
    ]
