"""What each training step changed: paired differences between models on the same held-out questions."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from medqa import jsonl, metrics
from medqa.records import Answer
from medqa.runtime.errors import UserError
from medqa.runtime.sections import CompareParams, Guards

COMPARISONS = (("sft", "base"), ("dpo", "sft"), ("dpo", "base"))  # the later model first
COMPARISON_NAMES = tuple(f"{after}_over_{before}" for after, before in COMPARISONS)
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


def compare(answers: dict[str, Sequence[Answer]], params: CompareParams, seed: int) -> dict[str, Any]:
    """A verdict on DPO over SFT, and the paired gains of each comparison in COMPARISONS.

    `answers` maps base, sft and dpo to answers to the same questions. In each comparison, `paired` counts the
    open questions that both models answered: all measures but the score are compared on these. `compared`
    counts those of them for which both answers have a score. Each mean gain has a 95% interval; the gain in
    `reference_logprob` is in nats per token. Of judged scores there are also the shares of wins, losses and
    ties, where a tie is a difference of at most `tie`. Raises UserError if questions or judges differ.
    """
    if len({tuple(row.id for row in rows) for rows in answers.values()}) != 1:
        raise UserError(
            "the evaluations answer different questions; rerun the stage evaluate for all three models"
        )
    if len({row.judge for rows in answers.values() for row in rows}) != 1:
        raise UserError(
            "the evaluations have different judges; rerun the stage evaluate for all three models"
        )
    comparisons = {
        name: _gains(list(zip(answers[after], answers[before], strict=True)), params, seed)
        for name, (after, before) in zip(COMPARISON_NAMES, COMPARISONS, strict=True)
    }
    changes = regressions(answers["dpo"], answers["sft"])
    failed = failed_guards(changes, params.guards)
    return {
        "verdict": verdict(comparisons["dpo_over_sft"], failed),
        "failed_guards": ", ".join(failed),
        "guards": changes,
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


def verdict(comparison: dict[str, Any], failed: Sequence[str]) -> str:
    """The verdict on DPO over SFT: `worse`, `improved` or `no clear change`.

    It is worse if a guard failed or the interval of the score's gain is below 0, and improved if it is above.
    """
    if failed or comparison.get("score_gain_high", 0.0) < 0:
        return "worse"
    return "improved" if comparison.get("score_gain_low", 0.0) > 0 else "no clear change"


def write_table(path: Path, answers: dict[str, Sequence[Answer]]) -> None:
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


def _win_shares(gains: Sequence[float], tie: float) -> dict[str, float]:
    """The shares of wins, losses and ties; empty without any gain."""
    # Scores have six decimals; the rest of a difference is binary noise.
    gains = [round(gain, 6) for gain in gains]
    wins, losses = sum(gain > tie for gain in gains), sum(gain < -tie for gain in gains)
    counts = {"wins": wins, "losses": losses, "ties": len(gains) - wins - losses}
    return {name: count / len(gains) for name, count in counts.items()} if gains else {}
