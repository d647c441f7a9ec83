"""The summary of a run: the numbers that someone wants first, and the tables that `dvc plots` draws."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from typing import Any

from medqa.compare import TRAINED
from medqa.records import Answer
from medqa.text import words

Metrics = Mapping[str, Any]
Columns = tuple[str, ...]
Table = list[dict[str, Any]]  # rows by column
EVALUATION: Columns = ("measure", "model", "mean", "low", "high")
RELIABILITY: Columns = ("confidence", "right", "pairs")
LENGTH: Columns = ("model", "words", "score", "answers")
DRAWN = ("score", "key_point_recall", "token_f1", "rouge_l", "coverage", "exam_accuracy")  # from 0 to 1
BASELINES = ("longer_wins", "likelier_wins", "more_similar_wins")
LENGTH_BINS = 10


def summarise(
    evaluations: Mapping[str, Metrics], compare: Metrics, agreement: Metrics, pairs: Metrics
) -> dict[str, float]:
    """The summary, from the metrics of the stages, flat; docs/metrics.md says what each number is.

    `evaluations` are by model. A number that the run does not have, such as the accuracy of no exam, is left
    out.
    """
    dpo, sft_gain = evaluations["dpo"], compare["dpo_over_sft"]
    labelled, attacks = agreement["by"].get("all", {}), agreement["attacks"]
    naive = [labelled[name] for name in BASELINES if name in labelled]
    numbers: dict[str, Any] = {
        **{f"score_{model}": evaluations[model].get("score") for model in TRAINED},
        "score_gain": sft_gain.get("score_gain"),
        "score_gain_low": sft_gain.get("score_gain_low"),
        "score_gain_over_placebo": compare.get("dpo_over_placebo", {}).get("score_gain"),
        **{f"token_f1_{model}": evaluations[model].get("token_f1") for model in TRAINED},
        "worst_group_gain": compare["worst_group"].get("score_gain"),
        "exam_accuracy": dpo.get("exam_accuracy"),
        "cut_off_share": dpo.get("cut_off"),
        "failed_conditions": sum(not condition["holds"] for condition in compare["conditions"].values()),
        "judge_agreement": labelled.get("agreement"),
        "baseline_agreement": max(naive, default=None),
        "attack_rate": attacks.get("attack_rate"),
        "padding_gain": attacks.get("padding_gain"),
        "pairs": pairs["pairs"],
    }
    return {name: value for name, value in numbers.items() if value is not None}


def evaluation_table(evaluations: Mapping[str, Metrics]) -> Table:
    """Means with 95% intervals, one row per measure and model; a model without answers has none."""
    return [
        {
            "measure": measure.replace("_", " "),
            "model": model,
            "mean": values[measure],
            "low": values[f"{measure}_low"],
            "high": values[f"{measure}_high"],
        }
        for measure in DRAWN
        for model, values in evaluations.items()
        if f"{measure}_low" in values
    ]


def length_table(answers: Mapping[str, Iterable[Answer]]) -> Table:
    """The judge's score against the number of words, by model: means of bins of open answers.

    A bin holds at least a tenth of a model's answers, and all of the same length: a model has at most ten.
    """
    table = []
    for model, rows in answers.items():
        scored = [
            (len(words(row.text)), row.score) for row in rows if row.correct is None and row.score is not None
        ]
        for group in _bins(scored):
            lengths, scores = zip(*group, strict=True)
            means = {"words": round(fmean(lengths), 2), "score": round(fmean(scores), 4)}
            table.append({"model": model, **means, "answers": len(group)})
    return table


def _bins(scored: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    bins: list[list[tuple[int, float]]] = []
    for _, group in groupby(sorted(scored), key=itemgetter(0)):
        if bins and len(bins[-1]) * LENGTH_BINS < len(scored):
            bins[-1] += group
        else:
            bins.append(list(group))
    if len(bins) > 1 and len(bins[-1]) * LENGTH_BINS < len(scored):
        last = bins.pop()
        bins[-1] += last
    return bins
