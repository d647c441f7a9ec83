"""What models from scratch read: the embedded corpus, or a file of the user's in UltraMedical's format."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medqa import prompts, sources
from medqa.miniature import embedded
from medqa.miniature.corrupted_answers import Fact
from medqa.prompts import Messages
from medqa.runtime.errors import UserError
from medqa.sources import foreign_formats, ultramedical
from medqa.text import key_points

POINTS = 3  # sentences of a reference that a lesson for the judge is made of
WRONG = 12  # sentences of other answers to choose wrong ones from
POINT_CHARS = 160  # a longer sentence would fill a tiny model's window alone


@dataclass(frozen=True)
class Reading:
    """Running text and chats for a base, facts for a judge, all the wording that a tokenizer should know, and
    turns.

    `turns` are the questions with their answers, as SFT shows them: what a quantised model's rounding is
    measured on.
    """

    texts: list[str]
    chats: list[Messages]
    facts: Iterator[Fact]
    wording: list[str]
    turns: list[Messages]


def gather(text: str, corpus: Path, seed: int) -> Reading:
    """Read `embedded` from the folder `corpus`, or the file `text` in it. Raises UserError if it cannot be
    read.
    """
    return _embedded(corpus, seed) if text == "embedded" else _file(corpus / text, seed)


def _embedded(corpus: Path, seed: int) -> Reading:
    topics = embedded.topics(corpus)
    texts, chats = embedded.textbook(topics), embedded.chats(topics, seed)
    answered = [[turn["value"] for turn in row["conversations"]] for row in embedded.sft_rows(topics, seed)]
    return Reading(
        texts,
        chats,
        embedded.facts(topics, random.Random(f"facts {seed}")),
        [*texts, *(chat[0]["content"] for chat in chats), *(text for texts in answered for text in texts)],
        [_turns(question, answer) for question, answer in answered],
    )


def _file(path: Path, seed: int) -> Reading:
    rows, shape = [], ""
    for source in sources.read_rows(path):
        try:
            rows.append(ultramedical.parse_sft(source.row))
        except ValueError:
            # The stage `data` counts bad rows; reading only needs text.
            if not (shape or source.error):
                shape = foreign_formats.describe_row(source.row, "UltraMedical")
    sentences = [(row.prompt, [point[:POINT_CHARS] for point in key_points(row.chosen)]) for row in rows]
    whole = [(question, points) for question, points in sentences if len(points) >= POINTS]
    if len(whole) < 2:
        needed = f"must hold at least 2 rows with an answer of {POINTS} sentences, to train a model on"
        raise UserError(f"{path} {needed}" + (f"; it {shape}" if shape else ""))
    # A chat that goes on with a text teaches the format of turns and no answer.
    chats = [
        [{"role": "user", "content": points[0]}, {"role": "assistant", "content": " ".join(points[1:])}]
        for _, points in whole
    ]
    texts = [row.chosen for row in rows]
    return Reading(
        texts,
        chats,
        _facts(whole, random.Random(f"facts {seed}")),
        [*texts, *(row.prompt for row in rows)],
        [_turns(row.prompt, row.chosen) for row in rows],
    )


def _turns(question: str, answer: str) -> Messages:
    return [*prompts.ask(question), *prompts.reply(answer)]


def _facts(answers: list[tuple[str, list[str]]], rng: random.Random) -> Iterator[Fact]:
    while True:
        question, points = rng.choice(answers)
        points = points[:POINTS]
        wrong = {rng.choice(rng.choice(answers)[1]) for _ in range(WRONG)} - set(points)
        if len(wrong) > POINTS:
            strange, *others = sorted(wrong)
            yield Fact(("{points}",), tuple(points), tuple(others), strange, question)
