"""The embedded corpus: from readable facts to a textbook and to rows in UltraMedical's two formats.

A *topic* is one attribute of one condition, such as the symptoms of asthma. Whole topics are dealt to the SFT
set, the preference questions and the held-out splits, so that no wording of a held-out question is ever
trained on, except for the leaks that are put in on purpose, as the original has them, for the stage `data` to
find.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medqa.miniature.corrupted_answers import Fact, worded
from medqa.prompts import Messages
from medqa.runtime.errors import UserError

CHAT = ("Tell me about {name}.", "What do you know about {name}?")
POINTS = 3  # key points that every attribute of every condition has
HELD_OUT_SHARE = 0.19  # of the topics; half for dev, half for test
SFT_SHARE = 0.47  # of the topics; what is left goes to the preference questions
EXAM_FACTS = 0.2  # of the facts that a judge learns on
LETTERS = "ABCD"  # of its options
LEAKS = 40  # held-out prompts that also stand in the SFT set, and again in the preference questions


@dataclass(frozen=True)
class Wording:
    """How one attribute is asked for and told."""

    questions: list[str]
    answer: str
    textbook: list[str]
    exam: str


@dataclass(frozen=True)
class Topic:
    """One attribute of one condition with its key points, the most important first."""

    name: str
    attribute: str
    points: tuple[str, ...]
    wording: Wording

    @property
    def id(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.attribute}"

    def question(self, form: int) -> str:
        return self.wording.questions[form % len(self.wording.questions)].format(name=self.name)

    def answer(self, points: tuple[str, ...] | None = None) -> str:
        return worded(self._named(self.wording.answer), self.points if points is None else points)

    def textbook(self, form: int, points: tuple[str, ...] | None = None) -> str:
        wording = self._named(self.wording.textbook[form % len(self.wording.textbook)])
        return worded(wording, self.points if points is None else points)

    def forms(self) -> tuple[str, ...]:
        """Ways to word an answer, the golden one first."""
        return tuple(self._named(form) for form in (self.wording.answer, *self.wording.textbook))

    def _named(self, form: str) -> str:
        return form.replace("{name}", self.name)


def topics(folder: Path) -> list[Topic]:
    """All topics of a folder with conditions.yaml and templates.yaml. Raises UserError naming the condition at
    fault.
    """
    try:
        conditions = yaml.safe_load((folder / "conditions.yaml").read_text(encoding="utf-8"))
        words = yaml.safe_load((folder / "templates.yaml").read_text(encoding="utf-8"))
        wordings = {attribute: Wording(**wording) for attribute, wording in words.items()}
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder} must hold conditions.yaml and templates.yaml: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(conditions, list) or not conditions or not all(isinstance(c, dict) for c in conditions):
        raise UserError(
            f"{folder}/conditions.yaml must be a list of conditions, each with a name and key points"
        )
    for condition in conditions:
        if not isinstance(condition.get("name"), str):
            raise UserError(f"{folder}/conditions.yaml: {str(condition)[:80]!r} needs a name")
        for attribute in wordings:
            points = condition.get(attribute)
            texts = (
                {point for point in points if isinstance(point, str)} if isinstance(points, list) else set()
            )
            if not len(texts) == POINTS == len(points):
                raise UserError(
                    f"{folder}/conditions.yaml: {condition.get('name')!r} needs {POINTS} different key points "
                    f"under {attribute!r}"
                )
    return [Topic(c["name"], a, tuple(c[a]), w) for c in conditions for a, w in wordings.items()]


def textbook(all_topics: list[Topic]) -> list[str]:
    """What the base model reads: every topic in several wordings. Several are what makes a fact answerable
    later.
    """
    forms = max(len(topic.wording.textbook) for topic in all_topics)
    return [topic.textbook(form) for form in range(forms) for topic in all_topics]


def chats(all_topics: list[Topic], seed: int) -> list[Messages]:
    """Small talk that makes the base a chat model: asked about a condition, it tells any fact of it."""
    rng = random.Random(f"chats {seed}")
    return [
        [
            {"role": "user", "content": opening.format(name=topic.name)},
            {"role": "assistant", "content": topic.textbook(rng.randrange(len(topic.wording.textbook)))},
        ]
        for opening in CHAT
        for topic in all_topics
    ]


def facts(all_topics: list[Topic], rng: random.Random) -> Iterator[Fact]:
    """References for the judge to learn on, without end. Their points are drawn anew each time: a judge that
    is shown true facts again and again learns them by heart instead of comparing two texts.
    """
    pools = {
        t.attribute: sorted({p for o in all_topics if o.attribute == t.attribute for p in o.points})
        for t in all_topics
    }
    kin = {t.name: [o for o in all_topics if o.name == t.name] for t in all_topics}
    while True:
        topic = rng.choice(all_topics)
        other = rng.choice([o for o in kin[topic.name] if o.attribute != topic.attribute])
        drawn = rng.sample(pools[topic.attribute], 2 * POINTS)
        strange = tuple(rng.sample(pools[other.attribute], rng.randint(1, POINTS)))
        # What is right in an answer to multiple choice is the option's text; its letter alone is no medicine.
        count, forms = (1, _exam_forms(topic, rng)) if rng.random() < EXAM_FACTS else (POINTS, topic.forms())
        false = worded(rng.choice(other.forms()), strange)
        yield Fact(forms, tuple(drawn[:count]), tuple(drawn[POINTS:]), false, topic.question(0))


def _exam_forms(topic: Topic, rng: random.Random) -> tuple[str, ...]:
    letters = rng.choices(LETTERS, k=len(topic.forms()) + 2)
    told = (
        f"{form} Option {letter} is right." for form, letter in zip(topic.forms(), letters[2:], strict=True)
    )
    return (*(f"The answer is {letter}: {{points}}." for letter in letters[:2]), *told)


def deal(all_topics: list[Topic], seed: int) -> dict[str, list[Topic]]:
    """Topics for sft, train, dev and test; no topic is in two of them."""
    order = list(all_topics)
    random.Random(f"deal {seed}").shuffle(order)
    held, sft = round(HELD_OUT_SHARE * len(order)), round(SFT_SHARE * len(order))
    return {
        "dev": order[: held // 2],
        "test": order[held // 2 : held],
        "sft": order[held : held + sft],
        "train": order[held + sft :],
    }


def sft_rows(all_topics: list[Topic], seed: int) -> Iterator[dict[str, Any]]:
    """Rows in the format of UltraMedical. Open answers name one to three of the key points, as real answers
    do.
    """
    dealt, rng = deal(all_topics, seed), random.Random(f"sft {seed}")
    for topic in dealt["sft"]:
        for form in range(len(topic.wording.questions)):
            count = rng.choices(range(1, POINTS + 1), weights=(40, 35, 25))[0]
            told = sorted(rng.sample(range(POINTS), count))
            points = tuple(topic.points[place] for place in told)
            yield _sft(
                f"Open,{topic.id}-{form}", "Open-End", topic.question(form), topic.answer(points), None
            )
        for number in range(2):
            prompt, letter, point = exam(topic, all_topics, rng, number)
            yield _sft(
                f"Exam,{topic.id}-{number}", "Exam", prompt, f"The answer is {letter}: {point}.", letter
            )
        prompt = literature(topic, rng)
        yield _sft(f"Literature,{topic.id}", "Literature", prompt, topic.answer(), topic.answer())
    for topic in (dealt["dev"] + dealt["test"])[:LEAKS]:
        yield _sft(f"Open,{topic.id}-leak", "Open-End", topic.question(0), topic.answer(), None)


def preference_rows(all_topics: list[Topic], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows in the format of UltraMedical-Preference, by split. Prompts recur, and some are shared between
    splits.
    """
    dealt, rng = deal(all_topics, seed), random.Random(f"preference {seed}")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    for topic in dealt["train"]:
        for number, label_type in enumerate(("easy", "hard", "length")):
            rows["train"].append(_open(topic, all_topics, rng, label_type, form=min(number, 1)))
    for split in ("dev", "test"):
        for topic in dealt[split]:
            rows[split].append(_open(topic, all_topics, rng, rng.choice(("easy", "hard")), form=0))
            rows[split].append(
                _open(topic, all_topics, rng, "human" if split == "test" else "length", form=0)
            )
            rows[split].append(_exam(topic, all_topics, rng))
    for topic in (dealt["dev"] + dealt["test"])[-LEAKS:]:
        rows["train"].append(_open(topic, all_topics, rng, "easy", form=0))
    rows["train"] += [_exam(topic, all_topics, rng) for topic in dealt["train"]]
    return rows


def exam(topic: Topic, all_topics: list[Topic], rng: random.Random, which: int) -> tuple[str, str, str]:
    """A multiple-choice prompt, the letter of its right option, and that option."""
    right = topic.points[which % POINTS]
    options = [right, *others(topic, all_topics, rng, len(LETTERS) - 1)]
    rng.shuffle(options)
    lines = [topic.wording.exam.format(name=topic.name)]
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join(lines), LETTERS[options.index(right)], right


def literature(topic: Topic, rng: random.Random) -> str:
    """A question asked of a context that holds the answer."""
    context = topic.textbook(rng.randrange(len(topic.wording.textbook)))
    return f"Context: {context}\nQuestion: {topic.question(rng.randrange(len(topic.wording.questions)))}"


def others(topic: Topic, all_topics: list[Topic], rng: random.Random, count: int) -> list[str]:
    """Key points of the same attribute that are wrong for this condition."""
    pool = sorted(
        {p for t in all_topics if t.attribute == topic.attribute for p in t.points} - set(topic.points)
    )
    return rng.sample(pool, count)


def _open(
    topic: Topic, all_topics: list[Topic], rng: random.Random, label_type: str, form: int
) -> dict[str, Any]:
    wrong = tuple(others(topic, all_topics, rng, POINTS))
    # Not in the words of the golden answer, else agreement would ask the judge no more than to find equal
    # texts.
    told = rng.randrange(len(topic.wording.textbook))
    rejected = {
        "easy": topic.textbook(told, wrong),
        "hard": topic.textbook(told, (topic.points[0], wrong[0])),
        "length": topic.textbook(told, topic.points[:1])
        + worded(f" It is often said that {topic.name} is a matter of {{points}}.", wrong),
        "human": topic.textbook(told, (*topic.points[:2], wrong[0])),
    }[label_type]
    return _preference(
        f"Open,{topic.id}-{form}",
        label_type,
        topic.question(form),
        topic.textbook(told),
        rejected,
        topic.answer(),
        topic.points,
    )


def _exam(topic: Topic, all_topics: list[Topic], rng: random.Random) -> dict[str, Any]:
    prompt, letter, point = exam(topic, all_topics, rng, 0)
    wrong = rng.choice([other for other in LETTERS if other != letter])
    option = next(line[3:] for line in prompt.splitlines() if line.startswith(f"{wrong}. "))
    chosen, rejected = (
        f"{topic.answer((told,))} Option {which} is right."
        for told, which in ((point, letter), (option, wrong))
    )
    return _preference(f"Exam,{topic.id}", "hard", prompt, chosen, rejected, letter, (point,))


def _sft(row_id: str, kind: str, prompt: str, answer: str, gold: str | None) -> dict[str, Any]:
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    return {"id": row_id, "type": kind, "conversations": turns, "answer": gold, "score": None}


def _preference(
    prompt_id: str,
    label_type: str,
    prompt: str,
    chosen: str,
    rejected: str,
    golden: str,
    points: tuple[str, ...],
) -> dict[str, Any]:
    def turns(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    metadata = {
        "golden_answer": golden,
        "key_points": list(points),
        "chosen": {"model": "embedded"},
        "rejected": {"model": "embedded, damaged"},
    }
    return {
        "prompt_id": prompt_id,
        "label_type": label_type,
        "prompt": prompt,
        "chosen": turns(chosen),
        "rejected": turns(rejected),
        "metadata": metadata,
    }
