"""Preference pairs; the stage `pairs` writes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two candidates of one question, the better one chosen."""

    id: str  # of the question
    question: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
