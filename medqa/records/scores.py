"""What the judge says of an answer; candidates and held-out answers carry it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The judge's score of an answer: 0 (worst) to 1 per criterion, or None with a reason."""

    accuracy: float | None
    completeness: float | None
    key_points: float | None
    score: float | None  # the weighted mean of the criteria
    mass: float  # the least probability that the labels had together, over the criteria
    truncated_chars: int  # characters cut out of question, reference and answer because they were too long
    unscored: str  # why there is no score; empty where there is one
