"""How many answers or questions each number of the page is a mean over."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from medqa import compare
from medqa.records import Answer


def _is_open(row: Answer) -> bool:
    return row.correct is None


def _is_answered(row: Answer) -> bool:
    return _is_open(row) and row.finish_reason != "failed"


def _is_scored(row: Answer) -> bool:
    return _is_open(row) and row.score is not None


def _is_exam(row: Answer) -> bool:
    return row.correct is not None and row.finish_reason != "failed"


# The answers that `evaluate.summary` counts in, by measure.
MEASURES: dict[str, Callable[[Answer], bool]] = {
    "failed": lambda _: True,
    "unscored": _is_open,
    "shortened": _is_open,
    **dict.fromkeys(("score", "judged_accuracy", "judged_completeness", "judged_key_points"), _is_scored),
    **dict.fromkeys(("key_point_recall", "token_f1", "rouge_l", "tokens"), _is_answered),
    **dict.fromkeys(("cut_off", "repetition"), _is_answered),
    "coverage": lambda row: _is_answered(row) and row.coverage is not None,
    "reference_logprob": lambda row: _is_open(row) and row.reference_logprob is not None,
    "chosen_logprob": lambda row: _is_open(row) and row.chosen_logprob is not None,
    **dict.fromkeys(("exam_accuracy", "exam_unreadable"), _is_exam),
    "preference_alignment": lambda row: row.chosen_logprob is not None,
}


def of_measures(questions: Sequence[Mapping[str, Answer]]) -> dict[str, str]:
    """The number of answers behind each measure, in words; a range where it differs between models.

    Each question is the answers to it by model.
    """
    models = {model for answers in questions for model in answers}
    return {
        name: span(
            sum(counts_in(answers[model]) for answers in questions if model in answers) for model in models
        )
        for name, counts_in in MEASURES.items()
    }


def of_gains(questions: Sequence[Mapping[str, Answer]]) -> dict[str, str]:
    """The number of questions behind each gain, in words; a range where it differs between comparisons."""
    counts: dict[str, list[int]] = {name: [] for name in compare.MEASURES}
    for after, before in compare.COMPARISONS.values():
        sides = [
            (answers[after], answers[before]) for answers in questions if {after, before} <= answers.keys()
        ]
        for name, values in compare.paired_gains(sides)[1].items() if sides else ():
            counts[name].append(len(values))
    return {name: span(lengths) for name, lengths in counts.items()}


def span(counts: Iterable[int]) -> str:
    """Counts in words: one number where all are equal, else the least and the greatest; 0 of none."""
    ordered = sorted(counts) or [0]
    least, greatest = ordered[0], ordered[-1]
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"
