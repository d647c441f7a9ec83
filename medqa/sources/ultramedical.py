"""UltraMedical's two published formats: what a raw row must hold, and when two of its prompts are one.

A row comes out parsed, or with the reason why it cannot be used.
"""

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medqa.sources.golden import golden_letter
from medqa.text import normalize, words

TYPES = {"open-end": "open", "exam": "exam", "literature": "literature"}
KINDS = tuple(TYPES.values())
LABEL_TYPES = ("easy", "hard", "length", "human")
# Within its line, after a bullet or a bracket. \s* before it would begin anew in every line of a run of blank
# ones.
_OPTION = re.compile(
    r"^[^\S\n]*(?:[-*•>][^\S\n]*)?[(\[（【*]*(?:(?:option|choice)[^\S\n]+)?([A-JＡ-Ｊ])\**"
    r"(?:[.):．。、：）\]】]|[^\S\n]+[-–—](?=\s))\**\s*(.+)$",
    re.MULTILINE | re.IGNORECASE,
)
# The mark of an option that others stand beside.
_INLINE = re.compile(
    r"(?<![^\s：。，；？】])[(\[（【]?([A-JＡ-Ｊ])(?:[.:]\s+|[)．。、：）\]】]\s*)(?=\S)", re.IGNORECASE
)
SYSTEM = ("system", "developer")


@dataclass(frozen=True, order=True)
class ParsedRow:
    """A question with one answer (the SFT format) or two (the preference format), as published."""

    id: str
    kind: str
    prompt: str
    chosen: str
    rejected: str
    label_type: str
    gold: str  # the right option's letter, or ''; the SFT set's answers teach without it
    golden_text: str  # a golden answer in words, or ''
    key_points: tuple[str, ...]
    remark: str = ""  # what of the row was left out or not understood, or ''

    @cached_property
    def key(self) -> str:
        return prompt_key(self.prompt)


@dataclass(frozen=True)
class _Turns:
    """The first question and its answer, the texts of the turns after them, and whether a system turn stands
    before.
    """

    prompt: str
    answer: str
    later: tuple[str, ...]
    system: bool


def sft(row: Any) -> ParsedRow:
    """A row of UltraMedical, of which the first question and answer are taken.

    Raises ValueError with the reason if it cannot be used.
    """
    kind = TYPES.get(_text(row, "type").lower())
    if kind is None:
        raise ValueError("unknown type")
    turns = _turns(row.get("conversations"), "from", "value", "human", "gpt")
    remarks = ["system turn left out"] * (turns.system or _says(row.get("system")))
    remarks += ["later turns left out"] * bool(turns.later)
    return ParsedRow(
        _text(row, "id"), kind, turns.prompt, turns.answer, "", "", "", "", (), "; ".join(remarks)
    )


def preference(row: Any) -> ParsedRow:
    """A row of UltraMedical-Preference. Raises ValueError with the reason if it cannot be used."""
    label_type = _text(row, "label_type")
    if label_type not in LABEL_TYPES:
        raise ValueError("unknown label_type")
    prompt = _text(row, "prompt")
    chosen, rejected = (
        _turns(row.get(side), "role", "content", "user", "assistant") for side in ("chosen", "rejected")
    )
    if any(
        normalize(side.prompt) != normalize(prompt) for side in (chosen, rejected) if side.prompt != prompt
    ):
        raise ValueError("the prompt differs between columns")
    _refuse_unlike(chosen, rejected)
    golden, points = _metadata(row)
    listed = options(prompt)
    letter = golden_letter(golden, listed)
    exam = letter or len(listed) >= 3
    kind = "exam" if exam else "literature" if _has_context(row, prompt) else "open"
    text = "" if letter or not words(golden) else golden
    remarks = ["system turn left out"] * (chosen.system or rejected.system or _says(row.get("system")))
    if exam and not letter:
        remarks.append("golden answer is none of the options" if text else "options without a golden answer")
    answers = (chosen.answer, rejected.answer)
    return ParsedRow(
        _text(row, "prompt_id"), kind, prompt, *answers, label_type, letter, text, points, "; ".join(remarks)
    )


def _refuse_unlike(chosen: _Turns, rejected: _Turns) -> None:
    """Raise ValueError where a label says nothing of the two first answers: it is one of the whole
    conversations.
    """
    if chosen.answer.strip() != rejected.answer.strip():
        if chosen.later or rejected.later:
            raise ValueError("more than one question")
    elif chosen.later != rejected.later:
        raise ValueError("chosen and rejected differ only after the first answer")
    else:
        raise ValueError("chosen and rejected are the same")


def options(prompt: str) -> dict[str, str]:
    """The lettered options of a prompt, by capital letter; a letter that comes twice has its first.

    Two are enough if they are A and B; a dialogue may look like that, so that they alone make no exam.
    """
    listed: dict[str, str] = {}
    for letter, text in _taken_apart(prompt)[1] or _taken_apart(prompt, least=2)[1]:
        listed.setdefault(letter, text)
    return listed if len(listed) >= 3 or list(listed) == ["A", "B"] else {}


def prompt_key(prompt: str) -> str:
    """The form in which two prompts are one: case, white space, punctuation and the order of the options
    folded.
    """
    stem, listed = _taken_apart(prompt)
    key = (
        " | ".join([normalize(stem), *sorted(normalize(text) for _, text in listed)])
        if listed
        else normalize(prompt)
    )
    return key or " ".join(prompt.split())


def _taken_apart(prompt: str, least: int = 3) -> tuple[str, list[tuple[str, str]]]:
    """What is asked, and at least so many options with their letters: each on a line, or A, B, C... within
    one.
    """
    listed = [(_letter(match), match[2].strip()) for match in _OPTION.finditer(prompt)]
    if len(listed) >= least:
        return _OPTION.sub("", prompt), listed
    run: list[re.Match[str]] = []
    for mark in _INLINE.finditer(prompt):
        if _letter(mark) == "A" and len(run) < 2:
            run = [mark]  # one that stands alone, as in "hepatitis A.", is no option
        elif ord(_letter(mark)) == ord("A") + len(run):
            run.append(mark)
    if len(run) < least:
        return prompt, []
    ends = [mark.start() for mark in run[1:]] + [len(prompt)]
    texts = [prompt[mark.end() : end].strip().rstrip(",;，；") for mark, end in zip(run, ends, strict=True)]
    if not all(words(text) for text in texts):
        return prompt, []
    return prompt[: run[0].start()], [(_letter(mark), text) for mark, text in zip(run, texts, strict=True)]


def _letter(mark: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", mark[1]).upper()


def _has_context(row: Any, prompt: str) -> bool:
    return prompt.lstrip().lower().startswith(("context:", "abstract:")) or str(row["prompt_id"]).startswith(
        "PubMedQA"
    )


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


def _says(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _unpacked(value: Any) -> Any:
    """A value that may be stored as JSON text; none where a table has NaN."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return None if isinstance(value, float) and math.isnan(value) else value


def _turns(turns: Any, role: str, content: str, asks: str, answers: str) -> _Turns:
    turns = _unpacked(turns)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("turns are not a list of messages")
    spoken = [turn for turn in turns if turn.get(role) not in SYSTEM]
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
    later = tuple(str(turn.get(content)) for turn in spoken[2:] if turn.get(content))
    system = any(_says(turn.get(content)) for turn in turns if turn.get(role) in SYSTEM)
    return _Turns(texts[0], texts[1], later, system)


def _metadata(row: Any) -> tuple[str, tuple[str, ...]]:
    """The golden answer and the key points of a preference row, from its metadata or beside them.

    Raises ValueError if they are of no kind that can be read.
    """
    metadata = _unpacked(row.get("metadata")) or {}
    if not isinstance(metadata, dict):
        raise ValueError("metadata is not an object")
    golden, points = (
        _unpacked(row.get(key) if metadata.get(key) is None else metadata[key])
        for key in ("golden_answer", "key_points")
    )
    golden = golden[0] if isinstance(golden, list) and len(golden) == 1 else golden
    points = [] if points is None or points == "" else points
    if isinstance(golden, bool) or not isinstance(golden, str | int | float | None):
        raise ValueError("golden_answer is not text")
    if not isinstance(points, list) or not all(
        isinstance(point, str | int | float | None) for point in points
    ):
        raise ValueError("key_points are not a list of texts")
    texts = [str(point) for point in points if point is not None]
    golden = "" if golden is None else golden if isinstance(golden, str) else str(golden).removesuffix(".0")
    return golden, tuple(text for text in texts if words(text))
