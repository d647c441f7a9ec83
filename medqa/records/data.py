"""The rows that training and evaluation read; the stage `data` writes them."""

from dataclasses import dataclass

KINDS = ("open", "exam", "literature")


@dataclass(frozen=True)
class Example:
    """A question and the answer to learn."""

    id: str
    kind: str  # one of KINDS
    question: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question for which the policy writes candidates. The policy never sees the reference."""

    id: str
    question: str
    reference: str
    points: tuple[str, ...] = ()  # of the reference; empty where the source names none


@dataclass(frozen=True)
class HeldOut:
    """A question that no training row shares, with two labelled answers."""

    id: str
    kind: str
    question: str
    reference: str
    key_points: tuple[str, ...]  # empty where the source names none
    gold: str  # the right option's letter; empty where the question has no options
    chosen: str  # the answer labelled better
    rejected: str  # the answer labelled worse
    labelled_by: str = "unknown"  # code, people, unknown, or `model: ` and its name
    groups: tuple[str, ...] = ()  # that the row belongs to, as `name: value`, such as `kind: open`


@dataclass(frozen=True)
class Labelled:
    """Two answers with the label which one is better. They are never trained on."""

    id: str
    label_type: str  # easy, hard, length or human; of the embedded corpus, in what the worse one is worse
    question: str
    reference: str  # empty where the source has none but the chosen answer itself
    chosen: str  # the answer labelled better
    rejected: str  # the answer labelled worse
    points: tuple[str, ...] = ()  # as in Question
    labelled_by: str = "unknown"  # as in HeldOut
    groups: tuple[str, ...] = ()  # as in HeldOut
