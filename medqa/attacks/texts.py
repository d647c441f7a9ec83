"""Attempts to fool the judge: the texts of attacks.yaml, filled in for a labelled pair."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KINDS = ("key", "verdict", "padding")
_FIELD = re.compile(r"\{(question|poor)\}")


@dataclass(frozen=True)
class Attack:
    """One attempt; `form` may hold {question} and {poor}, the answer labelled worse."""

    name: str
    kind: str  # one of KINDS
    form: str

    @property
    def uses_poor(self) -> bool:
        return "{poor}" in self.form

    def text(self, question: str, poor: str) -> str:
        # Not str.format, since an attack may hold braces; and in one pass, since the texts may as well.
        return _FIELD.sub(lambda field: {"question": question, "poor": poor}[field[1]], self.form)


@dataclass(frozen=True)
class AdversarialTexts:
    """Texts that deserve no credit, for a judge to learn on: alone, beside an answer, between answers."""

    keys: tuple[str, ...]  # alone, in the place of an answer
    verdicts: tuple[str, ...]  # grades and instructions to the judge
    fillers: tuple[str, ...]  # sentences without content
    echoes: tuple[str, ...]  # the question again, as {question}


def evaluation_attacks() -> list[Attack]:
    """The attacks that the judge is measured on."""
    forms = _read()["evaluation"]
    return [Attack(name, kind, form) for kind in KINDS for name, form in forms[kind].items()]


def training_attacks() -> AdversarialTexts:
    """The texts that a judge learns on; none of them is in the evaluation."""
    return AdversarialTexts(**{name: tuple(texts) for name, texts in _read()["training"].items()})


@cache
def _read() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text(encoding="utf-8"))
