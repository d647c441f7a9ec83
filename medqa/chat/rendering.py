"""Rendering messages: the chat template, stopped on one date, with the model's control tokens broken in every
text.
"""

import re
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from medqa import hub
from medqa.runtime.errors import UserError

DATE = date(
    2025, 1, 1
)  # what a template takes for today: prompts, rows and trained models are the same on any day
OTHER_DATE = date(2031, 12, 28)
CLOCK = "strftime_now"  # the function of transformers that a template asks for the time
MARKERS = re.compile(r"\[/?[A-Z_]{2,}\]|<</?[A-Z_]{2,}>>")
QUESTION, ANSWER = "What is gout?", "A disease of the joints."


def tokenizer(model_dir: Path) -> Any:
    """The tokenizer of a model directory or pin, padding on the left, as generation and prefill need it.

    It renders messages as they are rendered everywhere here: on DATE, with the model's control tokens broken.
    Raises UserError if it cannot be read or has no chat template.
    """
    from transformers import AutoTokenizer

    tok = load(AutoTokenizer, hub.local_path(model_dir), f"{model_dir}: the tokenizer")
    tok.padding_side = "left"
    text = template(tok, str(model_dir))
    if isinstance(tok.chat_template, dict):
        tok.chat_template["default"] = on(DATE, text)
    else:
        tok.chat_template = on(DATE, text)
    # No loss or attention here is told by the padding what to leave out: it may be an end of turn too.
    tok.pad_token = tok.pad_token or tok.eos_token or end(tok, str(model_dir))
    tok.apply_chat_template = partial(_rendered, tok.apply_chat_template, pattern(control_tokens(tok, text)))
    return tok


def load(kind: Any, folder: Path, what: str) -> Any:
    """What `kind.from_pretrained` reads from a folder. Raises UserError if it cannot."""
    try:
        return kind.from_pretrained(folder)
    except Exception as error:  # whatever the library stumbles over in files of others
        raise UserError(f"{what} cannot be read ({_short(error)}); choose another repo or revision") from None


def template(tok: Any, name: str) -> str:
    """The text of the chat template, as the model has it. Raises UserError if there is none."""
    try:
        return tok.get_chat_template().removeprefix(_clock(DATE))
    except ValueError:
        raise UserError(
            f"{name}: the tokenizer has no chat template (a base model that was never taught to chat?); choose the "
            "model's instruct or chat version"
        ) from None


def on(day: date, text: str) -> str:
    """A template as it is rendered on a day."""
    return _clock(day) + text if CLOCK in text else text


def _clock(day: date) -> str:
    """A macro that stands still: put before a template, it takes the place of the library's function."""
    parts = [*"aAbBdeHIjmMpSuyY", "-d", "-m"]
    read = "".join(f" | replace('%{part}', '{day.strftime(f'%{part}')}')" for part in parts)
    # The plus keeps a newline with which the template begins.
    return f"{{% macro {CLOCK}(format) -%}}{{{{ format{read} }}}}{{%- endmacro +%}}"


def turns(tok: Any, name: str) -> tuple[str, str]:
    """A lone question as a prompt, and with its answer. Raises UserError for a template that does not give
    both.
    """
    question = {"role": "user", "content": QUESTION}
    render = partial(tok.apply_chat_template, tokenize=False, chat_template=on(DATE, template(tok, name)))
    try:
        prompt = render([question], add_generation_prompt=True)
        answered = render([question, {"role": "assistant", "content": ANSWER}])
    except Exception as error:  # a template is a program: any error may come out of it
        raise UserError(
            f"{name}: the chat template refuses a question and an answer without a system prompt ({_short(error)}); "
            "choose another model"
        ) from None
    if QUESTION not in prompt or QUESTION not in answered or ANSWER not in answered:
        raise UserError(
            f"{name}: the chat template leaves out the question or the answer; choose another model"
        )
    return prompt, answered


def end(tok: Any, name: str) -> str:
    """The control token that the template puts after an answer. Raises UserError if there is none."""
    tail = turns(tok, name)[1].rpartition(ANSWER)[2]
    named = control_tokens(tok, template(tok, name))
    tokens = [
        token for token in named if tok.convert_ids_to_tokens(tok.convert_tokens_to_ids(token)) == token
    ]
    match = pattern(tokens).search(tail)
    if not match:
        raise UserError(
            f"{name}: the chat template puts no control token after an answer, so that nothing tells where it ends; "
            "choose another model"
        )
    return match[0]


def dated(tok: Any, **settings: Any) -> bool:
    """Whether a prompt, rendered with further settings for the template, changes with the date."""
    text, messages = template(tok, tok.name_or_path), [{"role": "user", "content": QUESTION}]
    one, other = (
        tok.apply_chat_template(messages, tokenize=False, chat_template=on(day, text), **settings)
        for day in (DATE, OTHER_DATE)
    )
    return one != other


def control_tokens(tok: Any, text: str) -> tuple[str, ...]:
    """What a tokenizer calls special, what was added to it and the template writes, and the template's
    [NAME]s.

    Llama 2 and its kin know [INST] by its letters alone. A plain word that was added is a word of texts too.
    """
    added = [token for _, token in sorted(tok.added_tokens_decoder.items())]
    written = [
        token.content for token in added if len(token.content.strip()) > 2 and not token.content.isalnum()
    ]
    named = [
        token.content
        for token in added
        if token.special or (token.content in written and token.content in text)
    ]
    return tuple(dict.fromkeys([*named, *tok.all_special_tokens, *MARKERS.findall(text)]))


def pattern(control: Any) -> re.Pattern[str]:
    """What finds any of these tokens in a text, the longest first."""
    longest = sorted(control, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def plain(control: re.Pattern[str], text: str) -> str:
    """The text with a space after the first character of each control token."""
    return control.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


def _rendered(
    render: Callable[..., Any], control: re.Pattern[str], conversation: Any, *args: Any, **named: Any
) -> Any:
    return render(_plain_messages(control, conversation), *args, **named)


def _plain_messages(control: re.Pattern[str], part: Any) -> Any:
    """Messages, or lists of them, with the control tokens in their texts broken."""
    if isinstance(part, dict):
        return {key: plain(control, value) if key == "content" else value for key, value in part.items()}
    return [_plain_messages(control, each) for each in part]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."
