"""What each training step changed: paired differences between models on the same held-out questions."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from medqa import metrics, records
from medqa.params import Float, Int, Section, UserError
from medqa.records import Answer

STEPS = (("sft", "base"), ("dpo", "sft"), ("dpo", "base"))
MEASURES = ("score", "key_point_recall", "token_f1")


class Params(Section):
    """Section `compare` of params.yaml."""

    bootstrap_samples: Int = Field(ge=100)
    tie: Float = Field(ge=0, le=1)


def compare(answers: dict[str, Sequence[Answer]], params: Params, seed: int) -> dict[str, Any]:
    """Mean paired differences with 95% bootstrap intervals and win, tie and loss shares, for each of STEPS.

    `answers` maps base, sft and dpo to answers to the same questions. A tie is a score difference of at most `tie`.
    Raises UserError if the questions differ.
    """
    ids = {name: [row.id for row in rows] for name, rows in answers.items()}
    if len({tuple(some) for some in ids.values()}) != 1:
        raise UserError("the evaluations answer different questions; rerun the stage evaluate for all three models")
    return {
        f"{after}_over_{before}": _step(list(zip(answers[after], answers[before], strict=True)), params, seed)
        for after, before in STEPS
    }


def write_table(path: Path, answers: dict[str, Sequence[Answer]]) -> None:
    """Write a TSV with a row for each model and measure, for `dvc plots` to draw."""
    with records.whole(path) as file:
        file.write("measure\tmean\n")
        for measure in MEASURES:
            for name, rows in answers.items():
                told = [getattr(row, measure) for row in rows if row.correct is None and row.score is not None]
                file.write(f"{measure} of {name}\t{fmean(told) if told else 0:.4f}\n")


def _step(rows: list[tuple[Answer, Answer]], params: Params, seed: int) -> dict[str, Any]:
    told = [row for row in rows if row[0].correct is None and row[0].score is not None and row[1].score is not None]
    result: dict[str, Any] = {"compared": len(told)}
    if not told:
        return result
    for name in MEASURES:
        mean, low, high = metrics.mean_interval(
            [getattr(after, name) - getattr(before, name) for after, before in told], seed, params.bootstrap_samples
        )
        result |= {f"{name}_gain": mean, f"{name}_gain_low": low, f"{name}_gain_high": high}
    # Scores have six decimals; the rest of a difference is binary noise.
    gains = [round(after.score - before.score, 6) for after, before in told]
    wins = sum(gain > params.tie for gain in gains)
    losses = sum(gain < -params.tie for gain in gains)
    shares = {"wins": wins, "losses": losses, "ties": len(gains) - wins - losses}
    return result | {name: count / len(gains) for name, count in shares.items()}
