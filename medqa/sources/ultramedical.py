"""UltraMedical's two published formats: what a raw row must hold, and when two of its prompts are one.

A row comes out parsed, or with the reason why it cannot be used.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medqa.text import LETTERS, normal, words

TYPES = {"open-end": "open", "exam": "exam", "literature": "literature"}
KINDS = tuple(TYPES.values())
LABEL_TYPES = ("easy", "hard", "length", "human")
_OPTION = re.compile(r"^\s*\(?([A-Ja-j])[.):]\s*(.+)$", re.MULTILINE)
_INLINE = re.compile(r"(?<!\S)\(?([A-Ja-j])[.):]\s+(?=\S)")  # the mark of an option that others stand beside


@dataclass(frozen=True, order=True)
class Asked:
    """A question with one answer (the SFT format) or two (the preference format), as published."""

    id: str
    kind: str
    prompt: str
    chosen: str
    rejected: str
    label_type: str
    gold: str  # the right option's letter, or ''
    golden_text: str  # a golden answer in words, or ''
    key_points: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        return prompt_key(self.prompt)


def sft(row: Any) -> Asked:
    """A row of UltraMedical. Raises ValueError with the reason if it cannot be used."""
    kind = TYPES.get(_text(row, "type").lower())
    if kind is None:
        raise ValueError("unknown type")
    prompt, answer = _turns(row.get("conversations"), "from", "value", "human", "gpt")
    gold = row.get("answer") if row.get("answer") in tuple(LETTERS) else ""
    return Asked(_text(row, "id"), kind, prompt, answer, "", "", gold, "", ())


def preference(row: Any) -> Asked:
    """A row of UltraMedical-Preference. Raises ValueError with the reason if it cannot be used."""
    label_type = _text(row, "label_type")
    if label_type not in LABEL_TYPES:
        raise ValueError("unknown label_type")
    prompt = _text(row, "prompt")
    texts = []
    for side in ("chosen", "rejected"):
        asked, answer = _turns(row.get(side), "role", "content", "user", "assistant")
        if asked != prompt and normal(asked) != normal(prompt):
            raise ValueError("the prompt differs between columns")
        texts.append(answer)
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    golden = metadata.get("golden_answer") if isinstance(metadata.get("golden_answer"), str) else ""
    letter = golden.strip() if golden.strip() in tuple(LETTERS) else ""
    listed = metadata.get("key_points") if isinstance(metadata.get("key_points"), list) else []
    points = tuple(point for point in listed if isinstance(point, str) and words(point))
    kind = "exam" if letter or len(options(prompt)) >= 3 else "literature" if _has_context(row, prompt) else "open"
    text = "" if letter or not words(golden) else golden
    return Asked(_text(row, "prompt_id"), kind, prompt, *texts, label_type, letter, text, points)


def options(prompt: str) -> dict[str, str]:
    """The lettered options of a prompt, by capital letter; a letter that comes twice has its first."""
    found: dict[str, str] = {}
    for letter, text in _taken_apart(prompt)[1]:
        found.setdefault(letter, text)
    return found


def prompt_key(prompt: str) -> str:
    """The form in which two prompts are one: case, white space, punctuation and the order of the options folded."""
    stem, listed = _taken_apart(prompt)
    key = " | ".join([normal(stem), *sorted(normal(text) for _, text in listed)]) if listed else normal(prompt)
    return key or " ".join(prompt.split())


def _taken_apart(prompt: str) -> tuple[str, list[tuple[str, str]]]:
    """What is asked, and at least three options with their letters: each on a line, or A, B, C... within one."""
    listed = [(match[1].upper(), match[2].strip()) for match in _OPTION.finditer(prompt)]
    if len(listed) >= 3:
        return _OPTION.sub("", prompt), listed
    run: list[re.Match[str]] = []
    for mark in _INLINE.finditer(prompt):
        if mark[1] in "Aa" and len(run) < 2:
            run = [mark]  # one that stands alone, as in "hepatitis A.", is no option
        elif ord(mark[1].upper()) == ord("A") + len(run):
            run.append(mark)
    if len(run) < 3:
        return prompt, []
    ends = [mark.start() for mark in run[1:]] + [len(prompt)]
    texts = [prompt[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True)]
    if not all(words(text) for text in texts):
        return prompt, []
    return prompt[: run[0].start()], [(mark[1].upper(), text) for mark, text in zip(run, texts, strict=True)]


def _has_context(row: Any, prompt: str) -> bool:
    return prompt.lstrip().lower().startswith(("context:", "abstract:")) or str(row["prompt_id"]).startswith("PubMedQA")


def _text(row: Any, key: str) -> str:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if key not in row:
        raise ValueError(f"missing key {key}")
    if not isinstance(row[key], str):
        raise ValueError(f"{key} is not text")
    if not row[key].strip():
        raise ValueError(f"empty {key}")
    return row[key]


def _turns(turns: Any, role: str, content: str, asks: str, answers: str) -> tuple[str, str]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("turns are not a list of messages")
    spoken = [turn for turn in turns if turn.get(role) != "system"]
    if not any(turn.get(role) == answers for turn in spoken):
        raise ValueError(f"no {answers} turn")
    if [turn.get(role) for turn in spoken[:2]] != [asks, answers]:
        raise ValueError("wrong order of roles")
    texts = [turn.get(content) for turn in spoken[:2]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a turn is not text")
    # Most texts begin with a word: to look for one is much faster than to find all.
    if not all(any(map(str.isalnum, text)) for text in texts):
        raise ValueError("an empty turn")
    return texts[0], texts[1]
