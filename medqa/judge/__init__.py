"""The judge: a score from 0 to 1 for each criterion, read from label probabilities in one prefill."""

from medqa.judge.candidate_order import order_agreement
from medqa.judge.cases import Case, Questions, expected_label, shorten, truncated_chars
from medqa.judge.scoring import (
    METHODS,
    UNANSWERED,
    WORST,
    Method,
    histogram,
    rank_answers,
    score,
    score_each,
    summary,
    unscored,
)

__all__ = ["METHODS", "UNANSWERED", "WORST", "Case", "Method", "Questions", "expected_label", "histogram"]
__all__ += [
    "order_agreement",
    "rank_answers",
    "score",
    "score_each",
    "shorten",
    "summary",
    "truncated_chars",
    "unscored",
]
