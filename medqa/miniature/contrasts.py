"""What a tuned encoder learns on: statements, and texts of which exactly one says each statement.

The texts of a batch are answers to neighbouring questions, such as those about one disease, so that only what
is said tells them apart; copies of them that say less or no more; and attempts to fool a judge.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from medqa.attacks import AdversarialTexts
from medqa.text import key_points, normalize

NEIGHBOURS = 6  # nearest questions of which a group is made
GROUP = 4  # rows of a group, at most
WORDS_KEPT = 0.6  # share of a sentence's words that its statement keeps
# Copies and attempts per answer of a batch.
ECHOES, ECHOED, ADVERSARIAL, PADDED, SHORTENED = 0.2, 0.2, 0.1, 0.15, 0.4


@dataclass(frozen=True)
class QuestionAnswer:
    """A question and the answer to it."""

    question: str
    answer: str


@dataclass
class Contrasts:
    """Statements, texts, the number of the text that says each statement, and pairs that count as neither."""

    statements: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    ignored: list[tuple[int, int]] = field(default_factory=list)  # (statement, text)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """The nearest rows of each row, (rows, NEIGHBOURS), nearest first, by the cosine of unit vectors."""
    count = min(NEIGHBOURS, len(vectors) - 1)
    nearest = []
    for start in range(0, len(vectors), 1024):  # all cosines at once would not fit into memory
        cosines = vectors[start : start + 1024] @ vectors.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf
        nearest.append(np.argsort(-cosines, axis=1, kind="stable")[:, :count])
    return np.concatenate(nearest)


def batches(
    rows: Sequence[QuestionAnswer], nearest: np.ndarray, size: int, rng: random.Random
) -> Iterator[list[QuestionAnswer]]:
    """Batches of `size` rows in groups of neighbours, without end; no row twice in one pass."""
    batch: list[QuestionAnswer] = []
    while True:
        used: set[int] = set()
        for number in rng.sample(range(len(rows)), len(rows)):
            if number in used:
                continue
            group = [number, *(int(other) for other in nearest[number] if other not in used)][:GROUP]
            used.update(group)
            batch += _distinct_answers([rows[member] for member in group])
            while len(batch) >= size:
                yield batch[:size]
                batch = batch[size:]


def _distinct_answers(group: Sequence[QuestionAnswer]) -> list[QuestionAnswer]:
    return list({normalize(row.answer): row for row in reversed(group)}.values())[::-1]


def contrast(batch: Sequence[QuestionAnswer], adversarial: AdversarialTexts, rng: random.Random) -> Contrasts:
    """The question of each row and a sentence of its answer as statements, beside the answers and more texts.

    The sentence loses words at random: a judge must not need the very words.
    """
    size = len(batch)
    result = Contrasts(
        statements=[row.question for row in batch],
        texts=[row.answer for row in batch],
        right=[*range(size), *range(size)],
    )

    def add(text: str, *ignored: int) -> None:
        result.ignored.extend((statement, len(result.texts)) for statement in ignored)
        result.texts.append(text)

    for number, row in enumerate(batch):
        sentences = key_points(row.answer)
        drawn = rng.randrange(len(sentences))
        result.statements.append(drop_words(sentences[drawn], rng))
        if len(sentences) > 1 and rng.random() < SHORTENED:
            # It may still answer the question, but it does not say the sentence.
            add(" ".join(sentences[:drawn] + sentences[drawn + 1 :]), number)
    _add_attempts(batch, adversarial, rng, add)
    return result


def _add_attempts(
    batch: Sequence[QuestionAnswer],
    adversarial: AdversarialTexts,
    rng: random.Random,
    add: Callable[..., None],
) -> None:
    """Texts that must earn nothing, and copies of answers that must earn nothing more."""
    size = len(batch)
    for _ in range(round(ECHOES * size)):
        add(rng.choice(adversarial.echoes).format(question=rng.choice(batch).question))
    for _ in range(round(ADVERSARIAL * size)):
        add(rng.choice((*adversarial.keys, *adversarial.verdicts, *adversarial.fillers)))
    for _ in range(round(ECHOED * size)):
        echoed, answered = rng.sample(range(size), 2)
        echo = rng.choice(adversarial.echoes).format(question=batch[echoed].question)
        parts = [echo, batch[answered].answer]
        add(" ".join(rng.sample(parts, 2)), answered, answered + size)
    for _ in range(round(PADDED * size)):
        answered = rng.randrange(size)
        answer, verdict = batch[answered].answer, rng.choice(adversarial.verdicts)
        filler = rng.choice(adversarial.fillers)
        copies = (
            f"{answer} {answer}",
            f"{answer} {verdict}",
            f"{filler} {answer}",
            f"{answer} {filler} {answer}",
        )
        add(rng.choice(copies), answered, answered + size)


def drop_words(sentence: str, rng: random.Random) -> str:
    """The sentence without the words that a draw leaves out."""
    parts = sentence.split()
    return " ".join([part for part in parts if rng.random() < WORDS_KEPT] or parts)
