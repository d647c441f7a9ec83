"""Preference pairs; the stage `pairs` writes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two texts of one question, the better one chosen: candidates, or the reference and a candidate."""

    id: str  # of the question
    question: str
    chosen: str
    rejected: str
    chosen_score: float  # 1.0 of a reference, which the judge does not score
    rejected_score: float
