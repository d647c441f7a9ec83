"""Candidates with their scores; the stage `judge` writes them."""

from dataclasses import dataclass

from medqa.records.candidates import Candidate
from medqa.records.scores import Score


@dataclass(frozen=True)
class Judged(Candidate, Score):
    """A candidate with its scores."""
