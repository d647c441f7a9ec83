"""Answers to benchmark questions from log-probabilities, and the accuracy of each task."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from medqa import metrics
from medqa.benchmark.questions import BenchmarkQuestion
from medqa.records import BenchmarkAnswer


def answers(
    questions: Sequence[BenchmarkQuestion],
    logprobs: Mapping[str, tuple[float, ...]],
    contaminated_by: Mapping[str, str],
) -> list[BenchmarkAnswer]:
    """The answer to each question: the likeliest option, as lm-eval's `acc` takes it."""
    rows = []
    for question in questions:
        options, numbers = question.task.options, logprobs[question.id]
        choice = options[numbers.index(max(numbers))]
        rows.append(
            BenchmarkAnswer(
                id=question.id,
                task=question.task.name,
                choice=choice,
                expected=question.expected,
                correct=choice == question.expected,
                options=options,
                logprobs=numbers,
                contaminated_by=contaminated_by.get(question.id, ""),
            )
        )
    return rows


def summary(rows: Sequence[BenchmarkAnswer], seed: int, samples: int) -> dict[str, Any]:
    """The number of questions, and `by` task the accuracy with its 95% interval, chance, and contamination.

    `contaminated` is the share of the questions that a training row repeats, `clean_accuracy` the accuracy on
    all others.
    """
    tasks = dict.fromkeys(row.task for row in rows)
    by = {task: _accuracy([row for row in rows if row.task == task], seed, samples) for task in tasks}
    return {"questions": len(rows), "by": by}


def _accuracy(rows: Sequence[BenchmarkAnswer], seed: int, samples: int) -> dict[str, float]:
    clean = [row for row in rows if not row.contaminated_by]
    result: dict[str, float] = {"rows": len(rows)}
    for name, each in (("accuracy", rows), ("clean_accuracy", clean)):
        if each:
            correct = [float(row.correct) for row in each]
            result |= metrics.named(name, metrics.share_interval(correct, seed, samples))
    result["chance"] = fmean(1 / len(row.options) for row in rows)
    result["contaminated"] = 1 - len(clean) / len(rows)
    return result
