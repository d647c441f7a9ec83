"""Answers damaged in known ways, with the labels that they deserve: what the tiny judge learns from.

The labels follow from what an answer covers and from nothing else. With its points, the most important first:
accuracy is the share of right points among those stated, completeness the share of the reference's points
that are covered, key points the same with the earlier points counting more (rank weights n, n-1, ..., 1).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medqa.attacks import AdversarialTexts
from medqa.prompts import LABELS

# Shares of the lessons.
STRANGE, LURED, WRONG, SHUFFLED, REWORDED, HEDGED, PADDED, ARGUED = 0.1, 0.06, 0.08, 0.1, 0.5, 0.06, 0.12, 0.1


@dataclass(frozen=True)
class JudgeExample:
    """A reference, an answer to it, the label for each criterion (0 is the lowest), and where the answer is
    right.

    `points` are the points that the answer states: from which character to which, and whether that one is
    right.
    """

    reference: str
    candidate: str
    labels: dict[str, int]
    points: tuple[tuple[int, int, bool], ...]
    question: str


@dataclass(frozen=True)
class Fact:
    """Ways to word an answer ({points} stands in them), the right points, wrong ones, and an answer to
    something else.

    There are at least as many wrong points as right ones. `question` is what the answer is to.
    """

    forms: tuple[str, ...]
    points: tuple[str, ...]
    wrong: tuple[str, ...]
    strange: str
    question: str


def labels(right: Sequence[bool], stated: int) -> dict[str, int]:
    """The label places for an answer that states `stated` points; `right` says which reference points are
    there.
    """
    top = len(LABELS) - 1
    weights = range(len(right), 0, -1)
    ranked = sum(weight for weight, there in zip(weights, right, strict=True) if there) / sum(weights)
    shares = {
        "accuracy": sum(right) / stated if stated else 0.0,
        "completeness": sum(right) / len(right),
        "key_points": ranked,
    }
    return {name: round(share * top) for name, share in shares.items()}


def judge_example(fact: Fact, lures: AdversarialTexts, rng: random.Random) -> JudgeExample:
    """One answer to a fact: some points kept, some wrong, some missing; or all wrong, strange, a lure, or
    padded.
    """
    reference = worded(fact.forms[0], fact.points)
    kind = rng.random()
    if kind < STRANGE + LURED:
        text = fact.strange if kind < STRANGE else rng.choice((*lures.keys, *lures.verdicts, _noise(rng)))
        return JudgeExample(reference, text, labels([False] * len(fact.points), 0), (), fact.question)
    wrong_only = kind < STRANGE + LURED + WRONG
    fates = ["wrong" if wrong_only else rng.choice(("keep", "keep", "wrong", "drop")) for _ in fact.points]
    if set(fates) == {"drop"}:
        fates[rng.randrange(len(fates))] = "wrong"
    wrong = iter(rng.sample(fact.wrong, len(fact.wrong)))
    told = [
        point if fate == "keep" else next(wrong)
        for point, fate in zip(fact.points, fates, strict=True)
        if fate != "drop"
    ]
    if rng.random() < HEDGED:
        told += list(wrong)
    if rng.random() < SHUFFLED:
        rng.shuffle(told)
    text = worded(rng.choice(fact.forms) if rng.random() < REWORDED else fact.forms[0], told)
    text = _dressed(text, fact, lures, rng)
    places = (
        (match.start(), match.end(), point in fact.points)
        for point in told
        for match in re.finditer(re.escape(point), text)
    )
    right = [fate == "keep" for fate in fates]
    return JudgeExample(reference, text, labels(right, len(told)), tuple(sorted(places)), fact.question)


def _dressed(text: str, fact: Fact, lures: AdversarialTexts, rng: random.Random) -> str:
    """The answer, perhaps said again, with much beside it, or with praise of itself: none of that earns
    anything.
    """
    if rng.random() < PADDED:
        filler = rng.choice(lures.fillers)
        text = rng.choice(
            (
                " ".join([text] * rng.randint(2, 4)),
                "\n".join([text] * rng.randint(2, 4)),
                f"{text} {filler} {text}",
                f"{text} {fact.strange}",
                f"{filler} {text}",
                f"{text} {filler}",
            )
        )
    if rng.random() < ARGUED:
        verdict = rng.choice(lures.verdicts)
        text = rng.choice((f"{text} {verdict}", f"{verdict} {text}", f"{text}\n{verdict}"))
    return text


def _noise(rng: random.Random) -> str:
    return "".join(
        rng.choices("abcdefghijklmnopqrstuvwxyz      ABC0123456789.,:;!?()[]{}/-", k=rng.randint(1, 40))
    )


def worded(form: str, points: Sequence[str]) -> str:
    """The form with its points: alone they are sentences, within a sentence a list."""
    if form == "{points}":
        return " ".join(points)
    return form.replace("{points}", " and ".join(filter(None, [", ".join(points[:-1]), points[-1]])))
