"""How many answers or questions each number of the page is a mean over."""

from collections import Counter
from collections.abc import Iterable, Mapping

from medqa import compare
from medqa.answer_measures import MEASURES
from medqa.records import Answer


def of_measures(questions: Iterable[Mapping[str, Answer]]) -> dict[str, str]:
    """The number of answers behind each measure, in words; a range where it differs between models.

    Each question is the answers to it by model.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in MEASURES}
    for answers in questions:
        for model, row in answers.items():
            for name, value in MEASURES.items():
                counts[name][model] += value(row) is not None
    return {name: span(by_model.values()) for name, by_model in counts.items()}


def of_gains(questions: Iterable[Mapping[str, Answer]]) -> dict[str, str]:
    """The number of questions behind each gain, in words; a range where it differs between comparisons."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in compare.MEASURES}
    for answers in questions:
        measured = {
            model: {name for name, value in compare.MEASURES.items() if value(row) is not None}
            for model, row in answers.items()
        }
        for comparison, (after, before) in compare.COMPARISONS.items():
            if {after, before} <= measured.keys():
                for name, by_comparison in counts.items():
                    by_comparison[comparison] += name in measured[after] & measured[before]
    return {name: span(by_comparison.values()) for name, by_comparison in counts.items()}


def span(counts: Iterable[int]) -> str:
    """Counts in words: one number where all are equal, else the least and the greatest; 0 of none."""
    ordered = sorted(counts) or [0]
    least, greatest = ordered[0], ordered[-1]
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"
