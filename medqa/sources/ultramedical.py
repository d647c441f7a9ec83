"""UltraMedical's two published formats: a raw row comes out parsed, or with a reason against it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medqa.sources.golden import golden_letter
from medqa.sources.metadata import decoded, read_metadata
from medqa.sources.options import list_options, prompt_key
from medqa.text import normalize, words

TYPES = {"open-end": "open", "exam": "exam", "literature": "literature"}
GRADES = (  # of the embedded corpus: in what the answer labelled worse is worse
    "wrong_detail",
    "missing_point",
    "neighbour_attribute",
    "neighbour_condition",
    "worse_words",
    "padded",
    "wrong_option",
    "wrong_letter",
)
LABEL_TYPES = ("easy", "hard", "length", "human", *GRADES)
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, order=True)
class ParsedRow:
    """A question with one answer (the SFT format) or two (the preference format), as published."""

    id: str
    kind: str
    prompt: str
    chosen: str
    rejected: str = ""
    label_type: str = ""
    gold: str = ""  # the right option's letter, or ''; the SFT set's answers teach without it
    golden_text: str = ""  # a golden answer in words, or ''
    key_points: tuple[str, ...] = ()
    remark: str = ""  # what of the row was left out or not understood, or ''
    attribute: str = ""  # what the question is about, such as treatment, or ''
    labelled_by: str = ""  # as in `labellers.read_labeller`

    @cached_property
    def key(self) -> str:
        return prompt_key(self.prompt)


@dataclass(frozen=True)
class _Conversation:
    prompt: str  # the first question
    answer: str
    later: tuple[str, ...]  # the texts of the turns after them
    has_system: bool  # whether there is a system turn


def parse_sft(row: Any) -> ParsedRow:
    """A row of UltraMedical, of which the first question and answer are taken.

    Raises ValueError with the reason if it cannot be used.
    """
    kind = TYPES.get(_text(row, "type").lower())
    if kind is None:
        raise ValueError("unknown type")
    turns = _conversation(row.get("conversations"), "from", "value", "human", "gpt")
    remarks = ["system turn left out"] * (turns.has_system or _has_text(row.get("system")))
    remarks += ["later turns left out"] * bool(turns.later)
    return ParsedRow(_text(row, "id"), kind, turns.prompt, turns.answer, remark="; ".join(remarks))


def parse_preference(row: Any) -> ParsedRow:
    """A row of UltraMedical-Preference. Raises ValueError with the reason if it cannot be used."""
    label_type = _text(row, "label_type")
    if label_type not in LABEL_TYPES:
        raise ValueError("unknown label_type")
    prompt = _text(row, "prompt")
    chosen, rejected = (
        _conversation(row.get(side), "role", "content", "user", "assistant")
        for side in ("chosen", "rejected")
    )
    for side in (chosen, rejected):
        if side.prompt != prompt and normalize(side.prompt) != normalize(prompt):
            raise ValueError("the prompt differs between columns")
    _refuse_meaningless_label(chosen, rejected)
    metadata = read_metadata(row)
    options = list_options(prompt)
    letter = golden_letter(metadata.golden, options)
    is_exam = letter or len(options) >= 3
    row_id = _text(row, "prompt_id")
    kind = "exam" if is_exam else "literature" if _has_context(row_id, prompt) else "open"
    text = "" if letter or not words(metadata.golden) else metadata.golden
    has_system = chosen.has_system or rejected.has_system or _has_text(row.get("system"))
    remarks = ["system turn left out"] * has_system
    if is_exam and not letter:
        remarks.append("golden answer is none of the options" if text else "options without a golden answer")
    answers = (chosen.answer, rejected.answer)
    return ParsedRow(
        *(row_id, kind, prompt, *answers, label_type, letter, text),
        key_points=metadata.key_points,
        remark="; ".join(remarks),
        attribute=metadata.attribute,
        labelled_by=metadata.labelled_by,
    )


def _refuse_meaningless_label(chosen: _Conversation, rejected: _Conversation) -> None:
    """Raise ValueError where the label compares whole conversations and not the two first answers."""
    if chosen.answer.strip() != rejected.answer.strip():
        if chosen.later or rejected.later:
            raise ValueError("more than one question")
    elif chosen.later != rejected.later:
        raise ValueError("chosen and rejected differ only after the first answer")
    else:
        raise ValueError("chosen and rejected are the same")


def _has_context(row_id: str, prompt: str) -> bool:
    return row_id.startswith("PubMedQA") or prompt.lstrip().lower().startswith(("context:", "abstract:"))


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


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _conversation(turns: Any, role: str, content: str, user: str, assistant: str) -> _Conversation:
    """A list of turns, whose texts and roles have these keys and names. Raises ValueError with the reason."""
    turns = decoded(turns)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("turns are not a list of messages")
    spoken = [turn for turn in turns if turn.get(role) not in SYSTEM_ROLES]
    if not any(turn.get(role) == assistant for turn in spoken):
        raise ValueError(f"no {assistant} turn")
    if [turn.get(role) for turn in spoken[:2]] != [user, assistant]:
        raise ValueError("wrong order of roles")
    prompt, answer = (turn.get(content) for turn in spoken[:2])
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise ValueError("a turn is not text")
    # Most texts begin with a word: to look for one character is much faster than to find all words.
    if not any(map(str.isalnum, prompt)) or not any(map(str.isalnum, answer)):
        raise ValueError("an empty turn")
    later = tuple(str(turn.get(content)) for turn in spoken[2:] if turn.get(content))
    has_system = any(_has_text(turn.get(content)) for turn in turns if turn.get(role) in SYSTEM_ROLES)
    return _Conversation(prompt, answer, later, has_system)
