"""Chat messages for answering and judging. Text that comes from data can add no control token to them."""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = ("1", "2", "3", "4", "5")  # the grades that the judge may reply, worst first
PREFIXES = {"grades": "judge", "points": "points"}  # of the names of a method's templates
CRITERIA = ("accuracy", "completeness", "key_points")
NO_REFERENCE = "(none is given; use your own knowledge)"
# Most control tokens are <|name|> or <name>; a space after the bracket keeps the text and breaks the token.
# Names differ in each model: all are broken but the tags that texts carry. Tokens of another form ([INST])
# are words of texts too: `chat` breaks those of the model in use, where its messages are rendered.
_TAGS = "b|br|em|i|li|p|strong|sub|sup|table|td|th|tr|ul"
_CONTROL = re.compile(rf"<(?=\|[^<>|]*\|>|/?(?!(?:{_TAGS})>)[A-Za-z][\w.:-]*>)")
_FIELD = re.compile(r"\{(question|reference|candidate|criterion|text|task)\}")

Messages = list[dict[str, str]]


def escape_control_tokens(text: str) -> str:
    """The text with every token <|name|> or <name> broken, so that a tokenizer reads it as ordinary text."""
    # Half of a surrogate pair, which JSON can carry, is no text that a tokenizer takes.
    return _CONTROL.sub("< ", text).encode("utf-8", "replace").decode("utf-8")


def ask(question: str) -> Messages:
    """The messages that put a question to the policy."""
    return [{"role": "user", "content": escape_control_tokens(question)}]


def reply(answer: str) -> Messages:
    """The message with the answer to a question, as training needs it."""
    return [{"role": "assistant", "content": escape_control_tokens(answer)}]


def default_system(tok: "PreTrainedTokenizerBase") -> str:
    """The system prompt that a chat template adds to messages without one; empty where it adds none."""
    system, user = "\0system\0", "\0user\0"

    def render(*messages: dict[str, str]) -> str:
        return tok.apply_chat_template(list(messages), tokenize=False)

    question = {"role": "user", "content": user}
    before = render(question).partition(user)[0]
    try:
        head, _, rest = render({"role": "system", "content": system}, question).partition(system)
    except Exception:  # such a template knows no system prompt, and reports that by an error of its own
        return ""
    tail = rest.partition(user)[0]
    added = before.startswith(head) and before.endswith(tail) and len(before) > len(head) + len(tail)
    return before[len(head) : len(before) - len(tail)] if added else ""


def judge(template: str, question: str, reference: str, candidate: str) -> dict[str, Messages]:
    """The messages that ask for a label, by criterion. They share a prefix and differ only at their end.

    `template` names a file of this folder. Raises FileNotFoundError if it is not there.
    """
    body, criteria = _template(template)
    texts = {"question": question, "reference": reference or NO_REFERENCE, "candidate": candidate}
    return {name: _user_turns(body, texts, {"criterion": criteria[name]}) for name in CRITERIA}


def statement(template: str, kind: str, question: str, text: str, statement: str) -> Messages:
    """The messages that ask whether a text says a statement. All about one text share a prefix.

    `kind` is what the statement is: `point` (of the reference), `sentence` (of the answer) or `question`.
    """
    body, tasks = _template(template)
    before, _, after = tasks[kind].partition("{statement}")
    task = f"{before}{escape_control_tokens(statement)}{after}"
    return _user_turns(body, {"question": question, "text": text}, {"task": task})


def _user_turns(body: str, texts: dict[str, str], own: dict[str, str]) -> Messages:
    """A turn per part of the template: an encoder reads text and statement apart."""
    fields = {name: escape_control_tokens(text) for name, text in texts.items()} | own
    # One pass, so that a brace in a text is never taken for a field.
    turns = (_FIELD.sub(lambda field: fields[field[1]], part) for part in body.split("\n===\n"))
    return [{"role": "user", "content": turn} for turn in turns]


def templates(method: str = "grades") -> list[str]:
    """The names of the judge's templates that come with the project, of one method."""
    return sorted(path.stem for path in Path(__file__).parent.glob(f"{PREFIXES[method]}*.txt"))


def method(template: str) -> str:
    """The method of judging that a template is for."""
    return next(name for name, prefix in PREFIXES.items() if template.startswith(prefix))


def labels(template: str) -> tuple[str, ...]:
    """What the judge may reply to a template, worst first."""
    line = _template(template)[1].get("labels", "")
    return tuple(line.split()) or LABELS


@cache
def _template(name: str) -> tuple[str, dict[str, str]]:
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    body, _, criteria = text.partition("\n---\n")
    return body, dict(line.split(": ", 1) for line in criteria.splitlines() if line)
