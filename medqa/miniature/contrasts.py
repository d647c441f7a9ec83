"""What a tuned encoder learns on: statements, and texts of which exactly one says each statement.

The texts of a batch are answers to neighbouring questions, such as those about one disease, so that only what
is said tells them apart; copies of them that say less or no more; and attempts to fool a judge.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Contrasts:
    """Statements and texts. The text of a statement's number says it; the questions come first."""

    statements: list[str]
    questions: list[str]  # per statement, what it is about
    texts: list[str]
    right: list[int]  # per statement, the number of the text that says it
    ignored: list[tuple[int, int]]  # (statement, text) that count neither as right nor as wrong


Copy = tuple[str, int]  # a text, and the number of the row whose question it answers


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
            group = [number, *(int(near) for near in nearest[number] if near not in used)][:GROUP]
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
    sentences = [rng.choice(key_points(row.answer)) for row in batch]
    copies = [(row.answer, number) for number, row in enumerate(batch)]
    copies += _shortened(batch, sentences, rng) + _echoed(batch, adversarial, rng)
    copies += _padded(batch, adversarial, rng)
    texts = [text for text, _ in copies] + _attempts(batch, adversarial, rng)
    ignored = [(number, position) for position, (_, number) in enumerate(copies) if position >= size]
    ignored += [
        (size + number, position)
        for number, sentence in enumerate(sentences)
        for position, text in enumerate(texts)
        if sentence in text and position != number
    ]
    statements = [*(row.question for row in batch), *(drop_words(sentence, rng) for sentence in sentences)]
    questions = 2 * [row.question for row in batch]
    return Contrasts(statements, questions, texts, 2 * [*range(size)], ignored)


def _shortened(batch: Sequence[QuestionAnswer], sentences: Sequence[str], rng: random.Random) -> list[Copy]:
    """Answers without the sentence: they may still answer the question, but they do not say the sentence."""
    copies = []
    for number, (row, sentence) in enumerate(zip(batch, sentences, strict=True)):
        rest = [each for each in key_points(row.answer) if each != sentence]
        if rest and rng.random() < SHORTENED:
            copies.append((" ".join(rest), number))
    return copies


def _echoed(batch: Sequence[QuestionAnswer], adversarial: AdversarialTexts, rng: random.Random) -> list[Copy]:
    """Answers beside the question of a different row: a repeated question is no answer."""
    copies = []
    for _ in range(round(ECHOED * len(batch))):
        echoed, answered = rng.sample(range(len(batch)), 2)
        parts = [_echo(batch[echoed], adversarial, rng), batch[answered].answer]
        copies.append((" ".join(rng.sample(parts, 2)), answered))
    return copies


def _padded(batch: Sequence[QuestionAnswer], adversarial: AdversarialTexts, rng: random.Random) -> list[Copy]:
    """Answers that are longer and say no more."""
    copies = []
    for _ in range(round(PADDED * len(batch))):
        answered = rng.randrange(len(batch))
        answer, verdict = batch[answered].answer, rng.choice(adversarial.verdicts)
        filler = rng.choice(adversarial.fillers)
        forms = ([answer, answer], [answer, verdict], [filler, answer], [answer, filler, answer])
        copies.append((" ".join(rng.choice(forms)), answered))
    return copies


def _attempts(
    batch: Sequence[QuestionAnswer], adversarial: AdversarialTexts, rng: random.Random
) -> list[str]:
    """Texts that answer nothing."""
    empty = (*adversarial.keys, *adversarial.verdicts, *adversarial.fillers)
    echoes = [_echo(rng.choice(batch), adversarial, rng) for _ in range(round(ECHOES * len(batch)))]
    return echoes + [rng.choice(empty) for _ in range(round(ADVERSARIAL * len(batch)))]


def _echo(row: QuestionAnswer, adversarial: AdversarialTexts, rng: random.Random) -> str:
    return rng.choice(adversarial.echoes).format(question=row.question)


def drop_words(sentence: str, rng: random.Random) -> str:
    """The sentence without the words that a draw leaves out."""
    parts = sentence.split()
    return " ".join([part for part in parts if rng.random() < WORDS_KEPT] or parts)
