"""What each training step changed: paired differences between models on the same held-out questions."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from medqa import groups, jsonl, metrics
from medqa.records import Answer
from medqa.runtime.errors import UserError
from medqa.runtime.sections import CompareParams, Guards

CONTROLS = ("placebo", "oracle")  # of DPO; each may be switched off
MODELS = ("base", "sft", "dpo", *CONTROLS)
COMPARISONS = {  # the later model first; controls last
    "sft_over_base": ("sft", "base"),
    "dpo_over_sft": ("dpo", "sft"),
    "dpo_over_base": ("dpo", "base"),
    "dpo_over_placebo": ("dpo", "placebo"),
    "oracle_over_sft": ("oracle", "sft"),
    "oracle_over_dpo": ("oracle", "dpo"),
}
GROUPED = ("dpo_over_sft", "dpo_over_base")  # the comparisons that are also made by group
# What is compared of each answer; None if it has no such value. Of repetition and cut_off, less is better.
MEASURES: dict[str, Callable[[Answer], float | None]] = {
    "score": lambda row: row.score,
    "key_point_recall": lambda row: row.key_point_recall,
    "token_f1": lambda row: row.token_f1,
    "rouge_l": lambda row: row.rouge_l,
    "coverage": lambda row: row.coverage,
    "reference_logprob": lambda row: (
        row.reference_logprob / row.reference_tokens if row.reference_tokens else None
    ),
    "repetition": lambda row: row.repetition,
    "cut_off": lambda row: float(row.finish_reason == "length"),
}
UNIT_MEASURES = tuple(name for name in MEASURES if name != "reference_logprob")  # from 0 to 1


def compare(answers: Mapping[str, Sequence[Answer]], params: CompareParams, seed: int) -> dict[str, Any]:
    """A verdict on DPO with its reason, and the paired gains of each comparison in COMPARISONS.

    `answers` maps base, sft, dpo, and the controls that are on, to answers to the same questions. Comparisons
    with a control that is off are left out. In each comparison, `paired` counts the open questions that both
    models answered: all measures but the score are compared on these. `compared` counts those of them for
    which both answers have a score. Each mean gain has a 95% interval; the gain in `reference_logprob` is in
    nats per token. Of judged scores there are also the shares of wins, losses and ties, where a tie is a
    difference of at most `tie`. The comparisons GROUPED have the score's gain by group, as `groups.means`
    gives it; `worst_group` is the group with the lowest gain over the base. Raises UserError if questions or
    judges differ.
    """
    if len({tuple(row.id for row in rows) for rows in answers.values()}) != 1:
        raise UserError("the evaluations answer different questions; rerun the stage evaluate for all models")
    if len({row.judge for rows in answers.values() for row in rows}) != 1:
        raise UserError("the evaluations have different judges; rerun the stage evaluate for all models")
    comparisons = {
        name: _gains(list(zip(answers[after], answers[before], strict=True)), params, seed)
        for name, (after, before) in COMPARISONS.items()
        if {after, before} <= answers.keys()
    }
    for name in GROUPED:
        after, before = COMPARISONS[name]
        pairs = zip(answers[after], answers[before], strict=True)
        comparisons[name] |= groups.means(_group_gains(pairs), seed, params.bootstrap_samples)
    changes = regressions(answers["dpo"], answers["sft"])
    failed = failed_guards(changes, params.guards)
    decision, reason = verdict(comparisons, failed)
    return {
        "verdict": decision,
        "reason": reason,
        "failed_guards": ", ".join(failed),
        "guards": changes,
        "worst_group": groups.worst(comparisons["dpo_over_base"]["by"], "score_gain"),
        **comparisons,
    }


def regressions(after: Sequence[Answer], before: Sequence[Answer]) -> dict[str, float]:
    """The values that the guards limit. A mean over no answer is left out.

    On open questions: the rise in repetition and in the share cut off, the ratio of mean lengths in tokens,
    and the mean drop of the chosen answer's log-probability in nats per token. On multiple choice: the rise
    in the share unreadable, the drop in accuracy. Questions that one of the models failed to answer do not
    count.
    """
    pairs = list(zip(after, before, strict=True))
    drops = [
        (old.chosen_logprob - new.chosen_logprob) / new.chosen_tokens
        for new, old in pairs
        if new.correct is None and None not in (new.chosen_logprob, old.chosen_logprob)
    ]
    answered = [pair for pair in pairs if "failed" not in (pair[0].finish_reason, pair[1].finish_reason)]
    open_pairs = [pair for pair in answered if pair[0].correct is None]
    exam_pairs = [pair for pair in answered if pair[0].correct is not None]
    changes = {}
    if open_pairs:
        tokens = [sum(row.tokens for row in rows) for rows in zip(*open_pairs, strict=True)]
        changes["repetition_rise"] = fmean(new.repetition - old.repetition for new, old in open_pairs)
        changes["length_ratio"] = tokens[0] / max(1, tokens[1])
        changes["cut_off_rise"] = fmean(
            (new.finish_reason == "length") - (old.finish_reason == "length") for new, old in open_pairs
        )
    if drops:
        changes["chosen_logprob_drop"] = fmean(drops)
    if exam_pairs:
        changes["exam_unreadable_rise"] = fmean(
            (not new.choice) - (not old.choice) for new, old in exam_pairs
        )
        changes["exam_accuracy_drop"] = fmean(
            bool(old.correct) - bool(new.correct) for new, old in exam_pairs
        )
    return changes


def failed_guards(changes: dict[str, float], guards: Guards) -> list[str]:
    """The names of the guards whose limit is exceeded. The length ratio is limited in both directions."""
    limits = guards.model_dump()
    values = dict(changes)
    if (ratio := values.get("length_ratio")) is not None:
        # Answers without any token are the extreme case of shrinking.
        values["length_ratio"] = max(ratio, 1 / ratio if ratio else math.inf)
    return [name for name, value in values.items() if round(value, 6) > limits[f"max_{name}"]]


def verdict(comparisons: Mapping[str, dict[str, Any]], failed: Sequence[str]) -> tuple[str, str]:
    """The verdict on DPO, which is `worse`, `improved` or `no clear change`, and its reason in words.

    It is worse if a guard failed or the interval of the score's gain over SFT is below 0. It is improved if
    that interval is above 0, and so is that of the gain over the placebo, where there is one.
    """
    over_sft, over_placebo = comparisons["dpo_over_sft"], comparisons.get("dpo_over_placebo")
    if "score_gain" not in over_sft:
        change = "no question has two judged answers to compare"
    else:
        change = f"the judge's score changed by {_describe_gain(over_sft)} over SFT"
    if failed:
        return "worse", f"{change}, but DPO exceeds a limit: {', '.join(failed).replace('_', ' ')}"
    if over_sft.get("score_gain_high", 0.0) < 0:
        return "worse", change
    if over_sft.get("score_gain_low", 0.0) <= 0:
        return "no clear change", change
    if over_placebo is None:
        return "improved", f"{change}; no placebo was trained"
    if over_placebo.get("score_gain_low", 0.0) <= 0:
        reason = f"{change}, but by {_describe_gain(over_placebo)} over the placebo"
        return "no clear change", f"{reason}: pairs turned round at random may do as well"
    return "improved", f"{change}, and by {_describe_gain(over_placebo)} over the placebo"


def _describe_gain(comparison: dict[str, Any]) -> str:
    low, mean, high = (comparison.get(f"score_gain{end}", 0.0) for end in ("_low", "", "_high"))
    return f"{mean:+.3f} (95% interval {low:+.3f} to {high:+.3f})"


def write_table(path: Path, answers: Mapping[str, Sequence[Answer]]) -> None:
    """Write a TSV with one row per model and measure from 0 to 1, for `dvc plots` to draw."""
    with jsonl.atomic_write(path) as file:
        file.write("measure\tmean\n")
        for measure in UNIT_MEASURES:
            for name, rows in answers.items():
                values = [MEASURES[measure](row) for row in rows if _is_open_answer(row)]
                values = [value for value in values if value is not None]
                file.write(f"{measure} of {name}\t{fmean(values) if values else 0:.4f}\n")


def _is_open_answer(row: Answer) -> bool:
    return row.correct is None and row.finish_reason != "failed"


def _gains(rows: Sequence[tuple[Answer, Answer]], params: CompareParams, seed: int) -> dict[str, Any]:
    pairs, gains = paired_gains(rows)
    result: dict[str, Any] = {"paired": pairs, "compared": len(gains["score"])}
    for name, values in gains.items():
        result |= metrics.named_interval(f"{name}_gain", values, seed, params.bootstrap_samples)
    return result | _win_shares(gains["score"], params.tie)


def paired_gains(rows: Iterable[tuple[Answer, Answer]]) -> tuple[int, dict[str, list[float]]]:
    """How many open questions both models answered, and their gains in each of MEASURES.

    `rows` holds the later and the earlier model's answer to each question. A gain is left out where one of
    the answers has no such value.
    """
    pairs = [pair for pair in rows if all(map(_is_open_answer, pair))]
    gains = {}
    for name, value in MEASURES.items():
        sides = [(value(after), value(before)) for after, before in pairs]
        gains[name] = [after - before for after, before in sides if None not in (after, before)]
    return len(pairs), gains


def _group_gains(rows: Iterable[tuple[Answer, Answer]]) -> list[tuple[tuple[str, ...], dict[str, float]]]:
    """The groups of each open question that is judged in both models, and its gain in score."""
    return [
        (after.groups, {"score_gain": after.score - before.score})
        for after, before in rows
        if _is_open_answer(after) and after.score is not None and before.score is not None
    ]


def _win_shares(gains: Sequence[float], tie: float) -> dict[str, float]:
    """The shares of wins, losses and ties; empty without any gain."""
    # Scores have six decimals; the rest of a difference is binary noise.
    gains = [round(gain, 6) for gain in gains]
    wins, losses = sum(gain > tie for gain in gains), sum(gain < -tie for gain in gains)
    counts = {"wins": wins, "losses": losses, "ties": len(gains) - wins - losses}
    return {name: count / len(gains) for name, count in counts.items()} if gains else {}
