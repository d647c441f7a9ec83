"""The embedded corpus: readable facts as topics, such as the symptoms of asthma."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medqa.runtime.errors import UserError

POINTS = 3  # key points that every attribute of every condition has


@dataclass(frozen=True)
class Templates:
    """How questions and answers about one attribute are worded; {name} and {points} are filled in."""

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
    templates: Templates

    @property
    def id(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.attribute}"

    def question(self, form: int) -> str:
        return self.templates.questions[form % len(self.templates.questions)].format(name=self.name)

    def answer(self, points: Sequence[str] = ()) -> str:
        """An answer in the golden form, with these points or with all of the topic's."""
        return fill(self.forms()[0], points or self.points)

    def textbook(self, form: int, points: Sequence[str] = ()) -> str:
        """A sentence of the textbook, with these points or with all of the topic's."""
        return fill(self.forms()[1 + form % len(self.templates.textbook)], points or self.points)

    def forms(self) -> tuple[str, ...]:
        """The forms of an answer: the golden one, then those of the textbook."""
        forms = (self.templates.answer, *self.templates.textbook)
        return tuple(form.replace("{name}", self.name) for form in forms)


def fill(form: str, points: Sequence[str]) -> str:
    """A form with its points: sentences where they are the whole form, a list within a sentence."""
    if form == "{points}":
        return " ".join(points)
    return form.replace("{points}", " and ".join(filter(None, [", ".join(points[:-1]), points[-1]])))


def topics(folder: Path) -> list[Topic]:
    """All topics of a folder with conditions.yaml and templates.yaml. Raises UserError naming the fault."""
    try:
        conditions = yaml.safe_load((folder / "conditions.yaml").read_text(encoding="utf-8"))
        raw = yaml.safe_load((folder / "templates.yaml").read_text(encoding="utf-8"))
        templates = {attribute: Templates(**texts) for attribute, texts in raw.items()}
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} must hold conditions.yaml and templates.yaml: {reason}") from None
    path = folder / "conditions.yaml"
    if not isinstance(conditions, list) or not conditions or not all(isinstance(c, dict) for c in conditions):
        raise UserError(f"{path} must be a list of conditions, each with a name and key points")
    for condition in conditions:
        _check(condition, list(templates), path)
    return [
        Topic(condition["name"], attribute, tuple(condition[attribute]), texts)
        for condition in conditions
        for attribute, texts in templates.items()
    ]


def textbook(all_topics: Sequence[Topic]) -> list[str]:
    """The text that a base learns on: every topic in several forms, which makes a fact answerable later."""
    forms = max(len(topic.templates.textbook) for topic in all_topics)
    return [topic.textbook(form) for form in range(forms) for topic in all_topics]


def _check(condition: dict[str, Any], attributes: Sequence[str], path: Path) -> None:
    name = condition.get("name")
    if not isinstance(name, str):
        raise UserError(f"{path}: {str(condition)[:80]!r} needs a name")
    for attribute in attributes:
        points = condition.get(attribute)
        texts = [point for point in points if isinstance(point, str)] if isinstance(points, list) else []
        if not len(set(texts)) == POINTS == len(points or ()):
            raise UserError(f"{path}: {name!r} needs {POINTS} different key points under {attribute!r}")
