"""What each training step changed: paired differences between models on the same held-out questions."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from medqa import jsonl, metrics
from medqa.records import Answer
from medqa.runtime.errors import UserError
from medqa.runtime.sections import CompareParams, Guards

COMPARISONS = (("sft", "base"), ("dpo", "sft"), ("dpo", "base"))
COMPARISON_NAMES = tuple(f"{after}_over_{before}" for after, before in COMPARISONS)
# What is compared of each answer: none where it has none. Of repetition and cut off, less is better.
MEASURES: dict[str, Callable[[Answer], float | None]] = {
    "score": lambda row: row.score,
    "key_point_recall": lambda row: row.key_point_recall,
    "token_f1": lambda row: row.token_f1,
    "rouge_l": lambda row: row.rouge_l,
    "reference_logprob": lambda row: (
        row.reference_logprob / row.reference_tokens if row.reference_tokens else None
    ),
    "repetition": lambda row: row.repetition,
    "cut_off": lambda row: float(row.finish_reason == "length"),
}
UNIT_MEASURES = tuple(name for name in MEASURES if name != "reference_logprob")  # from 0 to 1


def compare(answers: dict[str, Sequence[Answer]], params: CompareParams, seed: int) -> dict[str, Any]:
    """A verdict on DPO over SFT, and for each of STEPS mean paired differences with 95% intervals and win
    shares.

    `answers` maps base, sft and dpo to answers to the same questions. Of each step, `paired` counts the open
    questions that both models answered: all measures but the score are compared on these. `compared` counts
    those of them for which both answers have a score. A gain in `reference_logprob` is in nats per token. A
    tie is a score difference of at most `tie`. Raises UserError if the questions or the judges differ.
    """
    ids = {name: [row.id for row in rows] for name, rows in answers.items()}
    if len({tuple(some) for some in ids.values()}) != 1:
        raise UserError(
            "the evaluations answer different questions; rerun the stage evaluate for all three models"
        )
    if len({row.judge for rows in answers.values() for row in rows}) != 1:
        raise UserError(
            "the evaluations have different judges; rerun the stage evaluate for all three models"
        )
    steps = {
        f"{after}_over_{before}": _step(list(zip(answers[after], answers[before], strict=True)), params, seed)
        for after, before in COMPARISONS
    }
    lost = regressions(answers["dpo"], answers["sft"])
    failed = failures(lost, params.guards)
    return {
        "verdict": verdict(steps["dpo_over_sft"], failed),
        "failed_guards": ", ".join(failed),
        "guards": lost,
        **steps,
    }


def regressions(after: Sequence[Answer], before: Sequence[Answer]) -> dict[str, float]:
    """What the guards look at. Means of nothing are left out.

    On open questions: the rise in repetition and in the share cut off, the ratio of mean lengths in tokens,
    and the mean fall, in nats a token, of the log-probability of the answer that people chose. On multiple
    choice: the rise in the share unreadable, the fall in accuracy. An answer that one of the models could not
    write is in none of them.
    """
    pairs = list(zip(after, before, strict=True))
    drops = [
        (old.chosen_logprob - new.chosen_logprob) / new.chosen_tokens
        for new, old in pairs
        if new.correct is None and None not in (new.chosen_logprob, old.chosen_logprob)
    ]
    pairs = [pair for pair in pairs if "failed" not in (pair[0].finish_reason, pair[1].finish_reason)]
    texts = [pair for pair in pairs if pair[0].correct is None]
    exam = [pair for pair in pairs if pair[0].correct is not None]
    result = {}
    if texts:
        result["repetition_rise"] = fmean(new.repetition - old.repetition for new, old in texts)
        result["length_ratio"] = sum(new.tokens for new, _ in texts) / max(
            1, sum(old.tokens for _, old in texts)
        )
        result["cut_off_rise"] = fmean(
            (new.finish_reason == "length") - (old.finish_reason == "length") for new, old in texts
        )
    if drops:
        result["chosen_logprob_drop"] = fmean(drops)
    if exam:
        result["exam_unreadable_rise"] = fmean((not new.choice) - (not old.choice) for new, old in exam)
        result["exam_accuracy_drop"] = fmean(bool(old.correct) - bool(new.correct) for new, old in exam)
    return result


def failures(lost: dict[str, float], guards: Guards) -> list[str]:
    """The names of the guards that do not hold. The length ratio is held from both sides."""
    limits = guards.model_dump()
    # An answer without a token is the far end of shrinking.
    ratio = lost.get("length_ratio", 1.0)
    held = lost | (
        {"length_ratio": max(ratio, 1 / ratio if ratio else math.inf)} if "length_ratio" in lost else {}
    )
    return [name for name, value in held.items() if round(value, 6) > limits[f"max_{name}"]]


def verdict(step: dict[str, Any], failed: Sequence[str]) -> str:
    """`worse` if a guard failed or the score's interval is below 0, `improved` if it is above, else no clear
    change.
    """
    if failed or step.get("score_gain_high", 0.0) < 0:
        return "worse"
    return "improved" if step.get("score_gain_low", 0.0) > 0 else "no clear change"


def write_table(path: Path, answers: dict[str, Sequence[Answer]]) -> None:
    """Write a TSV with a row for each model and measure from 0 to 1, for `dvc plots` to draw."""
    with jsonl.atomic_write(path) as file:
        file.write("measure\tmean\n")
        for measure in UNIT_MEASURES:
            for name, rows in answers.items():
                values = [MEASURES[measure](row) for row in rows if _answers_openly(row)]
                values = [value for value in values if value is not None]
                file.write(f"{measure} of {name}\t{fmean(values) if values else 0:.4f}\n")


def _answers_openly(row: Answer) -> bool:
    """Whether it is an answer to an open question: an engine may leave a row undone."""
    return row.correct is None and row.finish_reason != "failed"


def _step(rows: Sequence[tuple[Answer, Answer]], params: CompareParams, seed: int) -> dict[str, Any]:
    pairs = [pair for pair in rows if all(map(_answers_openly, pair))]
    gains = {}
    for name, of in MEASURES.items():
        sides = [(of(after), of(before)) for after, before in pairs]
        gains[name] = [after - before for after, before in sides if after is not None and before is not None]
    result: dict[str, Any] = {"paired": len(pairs), "compared": len(gains["score"])}
    for name, values in gains.items():
        result |= metrics.named_interval(f"{name}_gain", values, seed, params.bootstrap_samples)
    return result | _shares(gains["score"], params.tie)


def _shares(gains: Sequence[float], tie: float) -> dict[str, float]:
    """The shares of wins, losses and ties; none for no gain."""
    # Scores have six decimals; the rest of a difference is binary noise.
    gains = [round(gain, 6) for gain in gains]
    wins, regressions = sum(gain > tie for gain in gains), sum(gain < -tie for gain in gains)
    counts = {"wins": wins, "losses": regressions, "ties": len(gains) - wins - regressions}
    return {name: count / len(gains) for name, count in counts.items()} if gains else {}
