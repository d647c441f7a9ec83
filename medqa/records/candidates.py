"""Sampled answers; the stage `generate` writes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One sampled answer to a question."""

    id: str  # question_id#sample; no question id holds a #
    question_id: str
    sample: int
    question: str
    reference: str
    text: str
    finish_reason: str  # stop, length (the token limit cut it off), or failed (the model could not answer)
    thinking: str = ""  # of a reasoning model, before its answer; never judged, measured or trained on
    points: tuple[str, ...] = ()  # as in Question
