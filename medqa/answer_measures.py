"""The measures of a held-out answer that `evaluate` makes means of, each of the answers that it counts in."""

from collections.abc import Callable
from operator import attrgetter

from medqa.metrics import win
from medqa.records import Answer

Measure = Callable[[Answer], float | None]  # None of an answer that has no such value


def is_open(row: Answer) -> bool:
    """Whether the question has no options."""
    return row.correct is None


def is_answered(row: Answer) -> bool:
    """Whether the question has no options, and the model could answer it."""
    return row.correct is None and row.finish_reason != "failed"


def _is_scored(row: Answer) -> bool:
    return row.correct is None and row.score is not None


def is_exam(row: Answer) -> bool:
    """Whether the question has options, and the model could answer it."""
    return row.correct is not None and row.finish_reason != "failed"


def is_cut_off(row: Answer) -> bool:
    """Whether the token limit ended the answer."""
    return row.finish_reason == "length"


def among(counts_in: Callable[[Answer], bool], value: Measure) -> Measure:
    """A measure of those answers alone that count in it."""
    return lambda row: value(row) if counts_in(row) else None


def per_token(name: str) -> Measure:
    """The log-probability in nats per token of the text `name`: reference, chosen or rejected."""
    nats, tokens = attrgetter(f"{name}_logprob"), attrgetter(f"{name}_tokens")
    return lambda row: None if nats(row) is None or not tokens(row) else nats(row) / tokens(row)


def _preference(row: Answer) -> float | None:
    if row.chosen_logprob is None or row.rejected_logprob is None:
        return None
    return win(row.chosen_logprob, row.rejected_logprob)


COUNTS: dict[str, Measure] = {  # of which the sum is a metric, and not the mean
    "failed": lambda row: row.finish_reason == "failed",
    "unscored": among(is_open, lambda row: row.score is None),
    "shortened": among(is_open, lambda row: row.truncated_chars > 0),
}
MEASURES: dict[str, Measure] = {
    **COUNTS,
    "judged_accuracy": among(_is_scored, attrgetter("accuracy")),
    "judged_completeness": among(_is_scored, attrgetter("completeness")),
    "judged_key_points": among(_is_scored, attrgetter("key_points")),
    "score": among(_is_scored, attrgetter("score")),
    "repetition": among(is_answered, attrgetter("repetition")),
    "tokens": among(is_answered, attrgetter("tokens")),
    "key_point_recall": among(is_answered, attrgetter("key_point_recall")),
    "token_f1": among(is_answered, attrgetter("token_f1")),
    "rouge_l": among(is_answered, attrgetter("rouge_l")),
    "coverage": among(is_answered, attrgetter("coverage")),
    "reference_logprob": among(is_open, per_token("reference")),
    "chosen_logprob": among(is_open, per_token("chosen")),
    "cut_off": among(is_answered, is_cut_off),
    "exam_accuracy": among(is_exam, attrgetter("correct")),
    "exam_unreadable": among(is_exam, lambda row: not row.choice),
    "preference_alignment": _preference,
}
