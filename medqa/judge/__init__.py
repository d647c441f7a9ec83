"""The judge: a score from 0 to 1 for each criterion, read from label probabilities in one prefill."""

from medqa.judge.candidate_order import candidate_order
from medqa.judge.cases import Case, Questions, expected_label, shorten, truncated_chars
from medqa.judge.scoring import (
    METHODS,
    UNANSWERED,
    WORST,
    Method,
    histogram,
    rank_answers,
    score,
    summary,
    unscored,
)

__all__ = ["METHODS", "UNANSWERED", "WORST", "Case", "Method", "Questions", "candidate_order"]
__all__ += ["expected_label", "histogram", "rank_answers", "score", "shorten", "summary", "truncated_chars"]
__all__ += ["unscored"]
