"""What all methods of judging share: the answer to judge, the questions about it, the expected label."""

from dataclasses import dataclass

from medqa.engines import Labels
from medqa.prompts import Messages


@dataclass(frozen=True)
class Case:
    """An answer to judge. `id` names it in messages and is unique within a call."""

    id: str
    question: str
    reference: str
    answer: str
    points: tuple[str, ...] = ()  # of the reference, the most important first; empty: its sentences


@dataclass(frozen=True)
class Questions:
    """What the judge is asked about a case, by name, and how many characters it does not read."""

    messages: dict[str, Messages]
    truncated_chars: int


def shorten(text: str, max_chars: int) -> str:
    """The text, its middle left out where it is longer than `max_chars`; the rubric is never shortened."""
    half = (max_chars - 3) // 2
    return text if len(text) <= max_chars else f"{text[:half]}...{text[-half:]}"


def truncated_chars(text: str, max_chars: int) -> int:
    """How many characters of a text `shorten` leaves out."""
    return 0 if len(text) <= max_chars else len(text) - 2 * ((max_chars - 3) // 2)


def expected_label(labels: Labels) -> float:
    """The expected label, where the lowest label is 0 and the highest is 1."""
    highest = len(labels.probabilities) - 1
    return sum(rank * share for rank, share in enumerate(labels.probabilities)) / highest
