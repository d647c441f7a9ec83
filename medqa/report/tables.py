"""From metrics to what the report's tables and charts show."""

from collections.abc import Iterable
from typing import Any

from medqa.pairs import REASONS
from medqa.records import AttackResult
from medqa.report.charts import Dot, Series
from medqa.report.labels import GUARDS, MEASURES, MODELS, OUTCOMES, label

Metrics = dict[str, Any]

CHANCE = 0.25  # of guessing one of four options


def dots(metrics: Metrics, series: dict[str, Series]) -> list[Dot]:
    """A mark per value that the metrics hold with an interval, by the value's name."""
    return [
        Dot(line, metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"])
        for name, line in series.items()
        if metrics.get(f"{name}_low") is not None
    ]


def measures(evaluations: Iterable[Metrics]) -> list[str]:
    """The measures of any of the models in display order; no texts, ends of intervals, or groups."""
    items = (item for metrics in evaluations for item in metrics.items())
    numbers = (key for key, value in items if not isinstance(value, str | dict))
    keys = dict.fromkeys(key for key in numbers if not key.endswith(("_low", "_high")))
    return [key for key in MEASURES if key in keys] + [key for key in keys if key not in MEASURES]


def no_better_than_chance(evaluations: dict[str, Metrics]) -> list[str]:
    """The models whose share of multiple choice right is not clearly above that of guessing."""
    return [name for name, metrics in evaluations.items() if metrics.get("exam_accuracy_low", 1) <= CHANCE]


def failed_guards(compare: Metrics, key: str = "failed_guards") -> dict[str, str]:
    """The labels of the guards that failed, by name: against SFT, or by another key of the metrics."""
    return {name: label(GUARDS, name) for name in compare.get(key, "").split(", ") if name}


def groups(metrics: dict[str, Metrics]) -> list[dict[str, Any]]:
    """The groups of held-out questions, the one with the lowest gain over the base first.

    Each has its `name`, its `gain` over the base, and the `scores` of base, SFT and DPO by label.
    """
    by = metrics["compare"].get("dpo_over_base", {}).get("by", {})
    return [
        {
            "name": name,
            "gain": by[name],
            "scores": {
                MODELS[model].name: metrics[f"evaluate/{model}"].get("by", {}).get(name, {})
                for model in ("base", "sft", "dpo")
            },
        }
        for name in sorted(by, key=lambda name: by[name]["score_gain"])
    ]


def benchmarks(accuracies: dict[str, Metrics]) -> dict[str, dict[str, Metrics]]:
    """The metrics of each benchmark task by model, from those of each model by task."""
    tasks = dict.fromkeys(task for metrics in accuracies.values() for task in metrics)
    return {task: {model: metrics.get(task, {}) for model, metrics in accuracies.items()} for task in tasks}


def labellers(counts: dict[str, int]) -> str:
    """Who labelled the pairs, in words, with how many; `counts` are by `labelled_by`."""
    names = {"unknown": "unknown, the data do not say"}
    words = {name: names.get(name, name.replace("model: ", "the model ", 1)) for name in counts}
    return "; ".join(f"{words[name]} ({count:,})" for name, count in counts.items())


def attack_margins(attacks: Iterable[AttackResult]) -> list[tuple[AttackResult, float]]:
    """Each attack with its score less the better of honest answer and reference, the highest first.

    An attack without a score, or with none to compare it with, is left out. From 0 on it is successful.
    """
    margins = []
    for row in attacks:
        honest = [score for score in (row.honest_score, row.reference_score) if score is not None]
        if row.score is not None and honest:
            margins.append((row, row.score - max(honest)))
    return sorted(margins, key=lambda attack: (-attack[1], attack[0].id))


def best_tries(margins: Iterable[tuple[AttackResult, float]]) -> list[tuple[AttackResult, float]]:
    """The first try of each attack by name, in the same order."""
    best: dict[str, tuple[AttackResult, float]] = {}
    for row, margin in margins:
        best.setdefault(row.attack, (row, margin))
    return list(best.values())


def row_funnel(counts: dict[str, int]) -> list[dict[str, Any]]:
    """From the rows read to the rows kept of one output: what was dropped, as shares of the rows read."""
    dropped = [(text, counts.get(outcome, 0), "lost") for outcome, text in OUTCOMES.items()]
    steps = [("read", counts["read"], "whole"), *dropped, ("kept", counts["kept"], "kept")]
    return _steps(steps, counts["read"])


def pair_funnel(metrics: dict[str, Metrics]) -> list[dict[str, Any]]:
    """From the questions through candidates and scores to pairs. Candidates are counted separately."""
    questions = metrics["pairs"].get("questions", 0)
    candidates = metrics["generate"].get("candidates", 0)
    scored = candidates - metrics["judge"].get("judged_unscored", 0)
    reasons = [(label(REASONS, name), count, "lost") for name, count in left_out(metrics["pairs"]).items()]
    pairs = ("pairs", metrics["pairs"].get("pairs", 0), "kept")
    texts = [("candidates written", candidates, "aside"), ("candidates with a score", scored, "aside")]
    return [
        *_steps([("questions", questions, "whole")], questions),
        *_steps(texts, candidates),
        *_steps([*reasons, pairs], questions),
    ]


def left_out(pair_metrics: Metrics) -> dict[str, int]:
    """How many questions gave no pair, by reason."""
    prefix = "left_out_"
    return {key.removeprefix(prefix): count for key, count in pair_metrics.items() if key.startswith(prefix)}


def _steps(rows: Iterable[tuple[str, int, str]], whole: int) -> list[dict[str, Any]]:
    return [
        {"label": text, "rows": count, "share": count / whole if whole else 0.0, "style": style}
        for text, count, style in rows
        if count or style != "lost"
    ]
