"""Answers damaged in known ways, with the labels that they deserve: what the tiny judge learns from.

The labels follow from what an answer covers and from nothing else. With its points, the most important first:
accuracy is the share of right points among those stated, completeness the share of the reference's points that are
covered, key points the same with the earlier points counting more (rank weights n, n-1, ..., 1).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medqa.prompts import LABELS

STRANGE, WRONG, SHUFFLED, REWORDED, PADDED = 0.12, 0.08, 0.1, 0.5, 0.1  # shares of the lessons


@dataclass(frozen=True)
class Lesson:
    """A reference, an answer to it, the label for each criterion (0 is the lowest), and where the answer is right.

    `points` are the points that the answer states: from which character to which, and whether that one is right.
    """

    reference: str
    candidate: str
    labels: dict[str, int]
    points: tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True)
class Fact:
    """Ways to word an answer ({points} stands in them), the right points, wrong ones, and an answer to something else.

    There are at least as many wrong points as right ones.
    """

    forms: tuple[str, ...]
    points: tuple[str, ...]
    wrong: tuple[str, ...]
    strange: str


def labels(right: Sequence[bool], stated: int) -> dict[str, int]:
    """The label places for an answer that states `stated` points; `right` says which reference points are there."""
    top = len(LABELS) - 1
    weights = range(len(right), 0, -1)
    ranked = sum(weight for weight, there in zip(weights, right, strict=True) if there) / sum(weights)
    shares = {
        "accuracy": sum(right) / stated if stated else 0.0,
        "completeness": sum(right) / len(right),
        "key_points": ranked,
    }
    return {name: round(share * top) for name, share in shares.items()}


def lesson(fact: Fact, rng: random.Random) -> Lesson:
    """One answer to a fact: some points kept, some wrong, some missing; or all wrong, strange, or padded."""
    reference = worded(fact.forms[0], fact.points)
    kind = rng.random()
    if kind < STRANGE:
        return Lesson(reference, fact.strange, labels([False] * len(fact.points), 0), ())
    fates = [rng.choice(("keep", "keep", "wrong", "drop")) if kind > STRANGE + WRONG else "wrong" for _ in fact.points]
    if set(fates) == {"drop"}:
        fates[rng.randrange(len(fates))] = "wrong"
    wrong = iter(rng.sample(fact.wrong, len(fact.points)))
    told = [
        point if fate == "keep" else next(wrong)
        for point, fate in zip(fact.points, fates, strict=True)
        if fate != "drop"
    ]
    if rng.random() < SHUFFLED:
        rng.shuffle(told)
    text = worded(rng.choice(fact.forms) if rng.random() < REWORDED else fact.forms[0], told)
    if rng.random() < PADDED:
        # Saying it again, or much beside it, earns nothing.
        text = f"{text} {rng.choice([text, fact.strange])}"
    places = tuple((text.find(point), text.find(point) + len(point), point in fact.points) for point in told)
    return Lesson(reference, text, labels([fate == "keep" for fate in fates], len(told)), places)


def worded(form: str, points: Sequence[str]) -> str:
    """The form with its points: alone they are sentences, within a sentence a list."""
    if form == "{points}":
        return " ".join(points)
    return form.replace("{points}", " and ".join(filter(None, [", ".join(points[:-1]), points[-1]])))
