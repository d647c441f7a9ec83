"""The text that models are trained on here: the embedded corpus, or a file in UltraMedical's format."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from medqa import prompts, sources
from medqa.miniature import embedded, embedded_rows
from medqa.miniature.corrupted_answers import Fact
from medqa.miniature.embedded import Topic
from medqa.prompts import Messages
from medqa.runtime.errors import UserError
from medqa.sources import foreign_formats, ultramedical
from medqa.text import key_points

CHAT = ("Tell me about {name}.", "What do you know about {name}?")
EXAM_SHARE = 0.2  # of the embedded facts
POINTS = 3  # sentences of a reference that a judge's example is made of, at most
WRONG_POINTS = 12  # sentences of other answers, drawn as wrong ones
POINT_CHARS = 160  # a longer sentence would fill a tiny model's window alone


@dataclass(frozen=True)
class TrainingText:
    """Documents and chats for a base, facts for a judge, and texts for their tokenizer and for GPTQ."""

    documents: list[str]
    chats: list[Messages]
    facts: Iterator[Fact]  # without end
    tokenizer_texts: list[str]
    turns: list[Messages]  # questions with their answers, as SFT renders them: GPTQ is calibrated on them


def load(text: str, corpus: Path, seed: int) -> TrainingText:
    """The embedded corpus in the folder `corpus`, or the file `text` in it. Raises UserError."""
    rng = random.Random(f"facts {seed}")
    return _embedded(corpus, seed, rng) if text == "embedded" else _file(corpus / text, rng)


def _embedded(corpus: Path, seed: int, rng: random.Random) -> TrainingText:
    topics = embedded.topics(corpus)
    documents, chats = embedded.textbook(topics), _chats(topics, seed)
    rows = embedded_rows.sft_rows(topics, seed)
    answered = [[turn["value"] for turn in row["conversations"]] for row in rows]
    openings = [chat[0]["content"] for chat in chats]
    return TrainingText(
        documents=documents,
        chats=chats,
        facts=embedded_facts(topics, rng),
        tokenizer_texts=[*documents, *openings, *chain.from_iterable(answered)],
        turns=[_turns(question, answer) for question, answer in answered],
    )


def _chats(topics: Sequence[Topic], seed: int) -> list[Messages]:
    """Chats that make the base a chat model: a general question about a condition, any fact about it."""
    rng = random.Random(f"chats {seed}")
    return [
        [
            {"role": "user", "content": opening.format(name=topic.name)},
            {"role": "assistant", "content": topic.textbook(rng.randrange(len(topic.templates.textbook)))},
        ]
        for opening in CHAT
        for topic in topics
    ]


def embedded_facts(topics: Sequence[Topic], rng: random.Random) -> Iterator[Fact]:
    """Facts about the topics, without end, whose points are drawn anew each time.

    A judge that sees true facts again and again learns them by heart instead of comparing two texts.
    """
    pools = {
        topic.attribute: sorted({p for t in topics if t.attribute == topic.attribute for p in t.points})
        for topic in topics
    }
    siblings = {
        topic.id: [t for t in topics if t.name == topic.name and t.attribute != topic.attribute]
        for topic in topics
    }
    while True:
        topic = rng.choice(topics)
        sibling = rng.choice(siblings[topic.id])
        drawn = rng.sample(pools[topic.attribute], 2 * embedded.POINTS)
        off_topic = rng.sample(pools[sibling.attribute], rng.randint(1, embedded.POINTS))
        # The right point of a multiple-choice answer is the option's text; its letter alone is no medicine.
        is_exam = rng.random() < EXAM_SHARE
        forms, count = (_exam_forms(topic, rng), 1) if is_exam else (topic.forms(), embedded.POINTS)
        yield Fact(
            forms,
            tuple(drawn[:count]),
            tuple(drawn[embedded.POINTS :]),
            embedded.fill(rng.choice(sibling.forms()), off_topic),
            topic.question(0),
        )


def _exam_forms(topic: Topic, rng: random.Random) -> tuple[str, ...]:
    forms = topic.forms()
    first, second, *letters = rng.choices(embedded_rows.LETTERS, k=len(forms) + 2)
    sentences = (f"{form} Option {letter} is right." for form, letter in zip(forms, letters, strict=True))
    return (f"The answer is {first}: {{points}}.", f"The answer is {second}: {{points}}.", *sentences)


def _file(path: Path, rng: random.Random) -> TrainingText:
    rows, other_format = [], ""
    for raw in sources.read_rows(path):
        try:
            rows.append(ultramedical.parse_sft(raw.row))
        except ValueError:
            # The stage `data` counts bad rows; training only needs text.
            if not other_format and not raw.error:
                other_format = foreign_formats.describe_row(raw.row, "UltraMedical")
    sentences = [(row.prompt, [point[:POINT_CHARS] for point in key_points(row.chosen)]) for row in rows]
    if len(rows) < 2:
        needed = "must hold at least 2 rows with an answer, to train a model on"
        raise UserError(f"{path} {needed}" + (f"; it {other_format}" if other_format else ""))
    long_answers = _longest(sentences)
    documents = [row.chosen for row in rows]
    return TrainingText(
        documents=documents,
        chats=[_continuation(points) for _, points in long_answers],
        facts=_file_facts(path, long_answers, rng),
        tokenizer_texts=[*documents, *(row.prompt for row in rows)],
        turns=[_turns(row.prompt, row.chosen) for row in rows],
    )


def _longest(answers: Sequence[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """The answers of POINTS sentences or more; of fewer, where not even two are so long."""
    least = max(1, min(POINTS, sorted(len(points) for _, points in answers)[-2]))
    return [(question, points) for question, points in answers if len(points) >= least]


def _continuation(points: Sequence[str]) -> Messages:
    """A chat that continues a text: it teaches the format of turns and no answer."""
    parts = points if len(points) > 1 else points[0].split()
    start = 1 if len(points) > 1 else len(parts) // 2
    return _turns(" ".join(parts[:start]), " ".join(parts[start:]))


def _file_facts(path: Path, answers: Sequence[tuple[str, list[str]]], rng: random.Random) -> Iterator[Fact]:
    """Facts without end. Raises UserError for a file with too few sentences to draw wrong ones from."""
    if len({point for _, points in answers for point in points}) <= 2 * POINTS:
        raise UserError(f"{path} must hold more than {2 * POINTS} different sentences, to train a judge on")
    while True:
        question, points = rng.choice(answers)
        points = points[:POINTS]
        wrong = {rng.choice(rng.choice(answers)[1]) for _ in range(WRONG_POINTS)} - set(points)
        if len(wrong) > POINTS:
            off_topic, *wrong_points = sorted(wrong)
            yield Fact(("{points}",), tuple(points), tuple(wrong_points), off_topic, question)


def _turns(question: str, answer: str) -> Messages:
    return [*prompts.ask(question), *prompts.reply(answer)]
