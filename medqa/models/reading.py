"""What models from scratch read: the embedded corpus, or a file of the user's in UltraMedical's format."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medqa import sources
from medqa.params import UserError
from medqa.prompts import Messages
from medqa.sources import embedded, ultramedical
from medqa.sources.damage import Fact
from medqa.text import key_points

POINTS = 3  # sentences of a reference that a lesson for the judge is made of
WRONG = 12  # sentences of other answers to choose wrong ones from
POINT_CHARS = 160  # a longer sentence would fill a tiny model's window alone


@dataclass(frozen=True)
class Reading:
    """Running text and chats for a base, facts for a judge, and all the wording that a tokenizer should know."""

    texts: list[str]
    chats: list[Messages]
    facts: Iterator[Fact]
    wording: list[str]


def gather(text: str, corpus: Path, seed: int) -> Reading:
    """Read `embedded` from the folder `corpus`, or the file `text` in it. Raises UserError if it cannot be read."""
    return _embedded(corpus, seed) if text == "embedded" else _file(corpus / text, seed)


def _embedded(corpus: Path, seed: int) -> Reading:
    topics = embedded.topics(corpus)
    texts, chats = embedded.textbook(topics), embedded.chats(topics, seed)
    asked = [turn["value"] for row in embedded.sft_rows(topics, seed) for turn in row["conversations"]]
    return Reading(
        texts,
        chats,
        embedded.facts(topics, random.Random(f"facts {seed}")),
        [*texts, *(chat[0]["content"] for chat in chats), *asked],
    )


def _file(path: Path, seed: int) -> Reading:
    rows = []
    for source in sources.read(path):
        try:
            rows.append(ultramedical.sft(source.row))
        except ValueError:
            continue  # the stage `data` counts bad rows; reading only needs text
    sentences = [[point[:POINT_CHARS] for point in key_points(row.chosen)] for row in rows]
    whole = [points for points in sentences if len(points) >= POINTS]
    if len(whole) < 2:
        raise UserError(f"{path} must hold at least 2 rows with an answer of {POINTS} sentences, to train a model on")
    # A chat that goes on with a text teaches the format of turns and no answer.
    chats = [
        [{"role": "user", "content": points[0]}, {"role": "assistant", "content": " ".join(points[1:])}]
        for points in whole
    ]
    texts = [row.chosen for row in rows]
    return Reading(texts, chats, _facts(whole, random.Random(f"facts {seed}")), [*texts, *(row.prompt for row in rows)])


def _facts(answers: list[list[str]], rng: random.Random) -> Iterator[Fact]:
    while True:
        points = rng.choice(answers)[:POINTS]
        wrong = {rng.choice(rng.choice(answers)) for _ in range(WRONG)} - set(points)
        if len(wrong) > POINTS:
            strange, *others = sorted(wrong)
            yield Fact(("{points}",), tuple(points), tuple(others), strange)
