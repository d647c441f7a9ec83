"""Answers corrupted in known ways, with the labels that they deserve: what a judge trained here learns on.

The labels follow from the points that an answer covers, and from nothing else. With the points in their order
of importance: accuracy is the share of right points among those stated, completeness the share of the
reference's points that are covered, key points the same with rank weights n, n-1, ..., 1.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medqa import attacks
from medqa.attacks import AdversarialTexts
from medqa.miniature.embedded import fill
from medqa.prompts import LABELS

# Shares of the examples that are of each kind.
OFF_TOPIC, ADVERSARIAL, ONLY_WRONG = 0.1, 0.06, 0.08
# Shares of the other examples that are changed in each way.
HEDGED, SHUFFLED, REWORDED, PADDED, PRAISED = 0.06, 0.1, 0.5, 0.12, 0.1
# Shares of the points, and of the examples, that are changed in each way where the answers are to be hard.
DAMAGED, CUT_OFF, LOOPED = 0.25, 0.12, 0.12
NOISE = "abcdefghijklmnopqrstuvwxyz      ABC0123456789.,:;!?()[]{}/-"


@dataclass(frozen=True)
class Fact:
    """A question, its right and wrong points, the forms of an answer, and an answer to another question.

    Each form holds {points}. There are at least as many wrong points as right ones.
    """

    forms: tuple[str, ...]
    points: tuple[str, ...]
    wrong_points: tuple[str, ...]
    off_topic: str
    question: str


@dataclass(frozen=True)
class JudgeExample:
    """A reference, an answer to grade, and the index of its label by criterion (0 is the lowest).

    `spans` are the points in the answer: first character, character after the last, whether it is right.
    `points` are those of the reference, the most important first.
    """

    reference: str
    candidate: str
    labels: dict[str, int]
    spans: tuple[tuple[int, int, bool], ...]
    question: str
    points: tuple[str, ...]


def judge_examples(facts: Iterator[Fact], count: int, seed: int, hard: bool = False) -> list[JudgeExample]:
    """Corrupted answers to the next `count` facts; the `hard` ones also have wrong details, cuts, loops."""
    rng, adversarial = random.Random(f"lessons {seed}"), attacks.training_attacks()
    return [judge_example(next(facts), adversarial, rng, hard) for _ in range(count)]


def judge_example(
    fact: Fact, adversarial: AdversarialTexts, rng: random.Random, hard: bool = False
) -> JudgeExample:
    """One answer to a fact: without any point, with wrong points only, or with points changed at random."""
    reference, kind = fill(fact.forms[0], fact.points), rng.random()
    if kind < OFF_TOPIC + ADVERSARIAL:
        texts = (*adversarial.keys, *adversarial.verdicts)
        text = fact.off_topic if kind < OFF_TOPIC else rng.choice((*texts, _noise(rng)))
        worst = labels([False] * len(fact.points), 0)
        return JudgeExample(reference, text, worst, (), fact.question, fact.points)
    stated = _change_points(fact, kind < OFF_TOPIC + ADVERSARIAL + ONLY_WRONG, rng, hard)
    stated = [_damage(point, fact, rng) for point in stated] if hard else stated
    text = fill(rng.choice(fact.forms) if rng.random() < REWORDED else fact.forms[0], stated)
    text = _add_empty_words(text, fact, adversarial, rng)
    text = _break_off(text, rng) if hard else text
    spans = tuple(
        sorted(
            (*match.span(), point in fact.points)
            for point in stated
            for match in re.finditer(re.escape(point), text)
        )
    )
    present = {text[start:stop] for start, stop, _ in spans}
    deserved = labels([point in present for point in fact.points], len(present))
    return JudgeExample(reference, text, deserved, spans, fact.question, fact.points)


def labels(right: Sequence[bool], stated: int) -> dict[str, int]:
    """The label indices of an answer with `stated` points; `right` says which reference points are there."""
    weights = range(len(right), 0, -1)
    ranked = sum(weight for weight, there in zip(weights, right, strict=True) if there) / sum(weights)
    shares = {
        # A reference that repeats a point has more right points than an answer has different ones.
        "accuracy": min(1.0, sum(right) / stated) if stated else 0.0,
        "completeness": sum(right) / len(right),
        "key_points": ranked,
    }
    return {name: round(share * (len(LABELS) - 1)) for name, share in shares.items()}


def _change_points(fact: Fact, only_wrong: bool, rng: random.Random, hard: bool) -> list[str]:
    """The points that the answer states, in its order: those of the fact, some exchanged or dropped."""
    actions = (*["keep"] * (4 if hard else 2), "replace", "drop")  # details are damaged afterwards
    changes = ["replace" if only_wrong else rng.choice(actions) for _ in fact.points]
    if set(changes) == {"drop"}:
        changes[rng.randrange(len(changes))] = "replace"
    wrong = iter(rng.sample(fact.wrong_points, len(fact.wrong_points)))
    stated = [
        point if change == "keep" else next(wrong)
        for point, change in zip(fact.points, changes, strict=True)
        if change != "drop"
    ]
    if rng.random() < HEDGED:
        stated += wrong
    if rng.random() < SHUFFLED:
        rng.shuffle(stated)
    return stated


def _damage(point: str, fact: Fact, rng: random.Random) -> str:
    """The point, perhaps with one word from a wrong point in the place of one of its own."""
    wrong = rng.choice(fact.wrong_points).split()
    own = point.split()
    exchangeable = [index for index, word in enumerate(own) if word not in wrong]
    if len(own) < 2 or not exchangeable or rng.random() >= DAMAGED:
        return point
    own[rng.choice(exchangeable)] = rng.choice(wrong)
    return " ".join(own)


def _break_off(text: str, rng: random.Random) -> str:
    """The answer, perhaps cut off in mid-sentence, or with its last words in a loop."""
    kind = rng.random()
    if kind < CUT_OFF:
        return text[: rng.randint(len(text) // 3, len(text))]
    if kind < CUT_OFF + LOOPED:
        end = " ".join(text.split()[-rng.randint(1, 12) :])
        return " ".join([text, *[end] * rng.randint(1, 6)])
    return text


def _add_empty_words(text: str, fact: Fact, adversarial: AdversarialTexts, rng: random.Random) -> str:
    """The answer, perhaps repeated, padded, or with praise of itself: none of that earns anything."""
    if rng.random() < PADDED:
        filler = rng.choice(adversarial.fillers)
        text = rng.choice(
            (
                " ".join([text] * rng.randint(2, 4)),
                "\n".join([text] * rng.randint(2, 4)),
                f"{text} {filler} {text}",
                f"{text} {fact.off_topic}",
                f"{filler} {text}",
                f"{text} {filler}",
            )
        )
    if rng.random() < PRAISED:
        verdict = rng.choice(adversarial.verdicts)
        text = rng.choice((f"{text} {verdict}", f"{verdict} {text}", f"{text}\n{verdict}"))
    return text


def _noise(rng: random.Random) -> str:
    return "".join(rng.choices(NOISE, k=rng.randint(1, 40)))
