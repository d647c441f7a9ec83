"""The embedded corpus as raw rows in UltraMedical's two formats.

Whole topics are split among the SFT set, the preference questions and the held-out sets, so that no wording
of a held-out question is ever trained on. Some leaks are put in on purpose, as the original has them, for the
stage `data` to detect.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from medqa.miniature.embedded import POINTS, Topic
from medqa.miniature.labelled_pairs import OPEN_GRADES, exam_pair, open_pair, wrong_points

HELD_OUT_SHARE = 0.19  # of the topics; half for dev, half for test
SFT_SHARE = 0.47  # of the topics; the rest goes to the preference questions
LETTERS = "ABCD"
LEAKS = 40  # held-out prompts that are also in the SFT set, and in the preference questions

Row = dict[str, Any]


def split_topics(topics: Sequence[Topic], seed: int) -> dict[str, list[Topic]]:
    """Topics for sft, train, dev and test; no topic is in two of them."""
    order = list(topics)
    random.Random(f"deal {seed}").shuffle(order)
    held_out, sft = round(HELD_OUT_SHARE * len(order)), round(SFT_SHARE * len(order))
    return {
        "dev": order[: held_out // 2],
        "test": order[held_out // 2 : held_out],
        "sft": order[held_out : held_out + sft],
        "train": order[held_out + sft :],
    }


def sft_rows(topics: Sequence[Topic], seed: int) -> Iterator[Row]:
    """Rows in the format of UltraMedical. Open answers name one to three key points, as real answers do."""
    splits, rng = split_topics(topics, seed), random.Random(f"sft {seed}")
    for topic in splits["sft"]:
        for form in range(len(topic.templates.questions)):
            count = rng.choices(range(1, POINTS + 1), weights=(40, 35, 25))[0]
            points = [topic.points[index] for index in sorted(rng.sample(range(POINTS), count))]
            yield _sft(f"Open,{topic.id}-{form}", "Open-End", topic.question(form), topic.answer(points))
        for number in range(2):
            question, letter, point = exam_question(topic, topics, rng, number)
            answer = f"The answer is {letter}: {point}."
            yield _sft(f"Exam,{topic.id}-{number}", "Exam", question, answer, letter)
        question, answer = _literature_question(topic, rng), topic.answer()
        yield _sft(f"Literature,{topic.id}", "Literature", question, answer, answer)
    for topic in (splits["dev"] + splits["test"])[:LEAKS]:
        yield _sft(f"Open,{topic.id}-leak", "Open-End", topic.question(0), topic.answer())


def preference_rows(topics: Sequence[Topic], seed: int) -> dict[str, list[Row]]:
    """Rows in the format of UltraMedical-Preference, by split. Some prompts recur, also between splits."""
    splits = split_topics(topics, seed)
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    grades = cycle(OPEN_GRADES)
    for topic in splits["train"]:
        rows["train"] += [_open_pair(topic, topics, seed, next(grades), form) for form in (0, 1, 1)]
    for split in ("dev", "test"):
        for topic in splits[split]:
            rows[split] += [_open_pair(topic, topics, seed, next(grades), form=0) for _ in range(2)]
            rows[split].append(_exam_pair(topic, topics, seed))
    for topic in (splits["dev"] + splits["test"])[-LEAKS:]:
        rows["train"].append(_open_pair(topic, topics, seed, next(grades), form=0))
    rows["train"] += [_exam_pair(topic, topics, seed) for topic in splits["train"]]
    return rows


def exam_question(
    topic: Topic, topics: Sequence[Topic], rng: random.Random, number: int
) -> tuple[str, str, str]:
    """A multiple-choice question, the letter of its right option, and that option."""
    right = topic.points[number % POINTS]
    options = [right, *wrong_points(topic, topics, rng, len(LETTERS) - 1)]
    rng.shuffle(options)
    lines = [topic.templates.exam.format(name=topic.name)]
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join(lines), LETTERS[options.index(right)], right


def _literature_question(topic: Topic, rng: random.Random) -> str:
    """A question after a context that holds the answer."""
    context = topic.textbook(rng.randrange(len(topic.templates.textbook)))
    return f"Context: {context}\nQuestion: {topic.question(rng.randrange(len(topic.templates.questions)))}"


def _open_pair(topic: Topic, topics: Sequence[Topic], seed: int, grade: str, form: int) -> Row:
    chosen, rejected = open_pair(topic, topics, grade, random.Random(f"{grade} {seed} {topic.id}"))
    metadata = {
        "golden_answer": topic.answer(),
        "key_points": list(topic.points),
        "attribute": topic.attribute,
    }
    return _preference(f"Open,{topic.id}-{form}", grade, topic.question(form), chosen, rejected, metadata)


def _exam_pair(topic: Topic, topics: Sequence[Topic], seed: int) -> Row:
    rng = random.Random(f"exam {seed} {topic.id}")
    question, letter, point = exam_question(topic, topics, rng, 0)
    options = dict(zip(LETTERS, question.splitlines()[1:], strict=True))
    grade, chosen, rejected = exam_pair(
        topic, {name: line[3:] for name, line in options.items()}, letter, rng
    )
    metadata = {"golden_answer": letter, "key_points": [point], "attribute": topic.attribute}
    return _preference(f"Exam,{topic.id}", grade, question, chosen, rejected, metadata)


def _sft(row_id: str, kind: str, question: str, answer: str, gold: str | None = None) -> Row:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": row_id, "type": kind, "conversations": turns, "answer": gold, "score": None}


def _preference(
    prompt_id: str, label_type: str, question: str, chosen: str, rejected: str, metadata: dict[str, Any]
) -> Row:
    def turns(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    writers = {"chosen": {"model": "embedded"}, "rejected": {"model": "embedded, damaged"}}
    return {
        "prompt_id": prompt_id,
        "label_type": label_type,
        "prompt": question,
        "chosen": turns(chosen),
        "rejected": turns(rejected),
        "metadata": metadata | writers | {"labelled_by": "code"},
    }
