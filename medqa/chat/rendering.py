"""Rendering messages: the chat template on a fixed date, with the control tokens in every text broken."""

import re
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa import hub
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template takes for today: prompts, rows and trained models are the same on any day.
DATE = date(2025, 1, 1)
OTHER_DATE = date(2031, 12, 28)
CLOCK = "strftime_now"  # the function of transformers by which a template reads the time
MARKERS = re.compile(r"\[/?[A-Z_]{2,}\]|<</?[A-Z_]{2,}>>")
QUESTION, ANSWER = "What is gout?", "A disease of the joints."


def tokenizer(model_dir: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model directory or pin, padding on the left, as generation and prefill need it.

    It renders messages as they are rendered everywhere here: on DATE, with the model's control tokens broken.
    Raises UserError if it cannot be read or has no chat template.
    """
    from transformers import AutoTokenizer

    tok = from_pretrained(AutoTokenizer, hub.local_path(model_dir), f"{model_dir}: the tokenizer")
    tok.padding_side = "left"
    text = template(tok, str(model_dir))
    if isinstance(tok.chat_template, dict):
        tok.chat_template["default"] = on(DATE, text)
    else:
        tok.chat_template = on(DATE, text)
    # No loss or attention here takes the padding token for a sign of what to leave out: it may end a turn.
    tok.pad_token = tok.pad_token or tok.eos_token or end_of_turn(tok, str(model_dir))
    control = token_pattern(control_tokens(tok, text))
    tok.apply_chat_template = partial(_render_escaped, tok.apply_chat_template, control)
    return tok


def from_pretrained(kind: Any, folder: Path, label: str) -> Any:
    """The object that `kind.from_pretrained` reads from a folder. Raises UserError if it cannot."""
    try:
        return kind.from_pretrained(folder)
    except Exception as error:  # whatever the library stumbles over in files of others
        reason = _shorten(error)
        raise UserError(f"{label} cannot be read ({reason}); choose another repo or revision") from None


def template(tok: "PreTrainedTokenizerBase", name: str) -> str:
    """The text of the chat template, as the model has it. Raises UserError if there is none."""
    try:
        return tok.get_chat_template().removeprefix(_clock(DATE))
    except ValueError:
        raise UserError(
            f"{name}: the tokenizer has no chat template (a base model that was never taught to chat?); "
            "choose the model's instruct or chat version"
        ) from None


def on(day: date, text: str) -> str:
    """A template as it is rendered on a day."""
    return _clock(day) + text if CLOCK in text else text


def _clock(day: date) -> str:
    """A macro that hides the library's function of the same name and always returns this day."""
    parts = [*"aAbBdeHIjmMpSuyY", "-d", "-m"]
    replaced = "".join(f" | replace('%{part}', '{day.strftime(f'%{part}')}')" for part in parts)
    # The plus keeps a newline with which the template begins.
    return f"{{% macro {CLOCK}(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro +%}}"


def example_turns(tok: "PreTrainedTokenizerBase", name: str) -> tuple[str, str]:
    """A lone question as a prompt, and with its answer. Raises UserError if the template leaves one out."""
    question = {"role": "user", "content": QUESTION}
    render = partial(tok.apply_chat_template, tokenize=False, chat_template=on(DATE, template(tok, name)))
    try:
        prompt = render([question], add_generation_prompt=True)
        answered = render([question, {"role": "assistant", "content": ANSWER}])
    except Exception as error:  # a template is a program: any error may come out of it
        raise UserError(
            f"{name}: the chat template refuses a question and an answer without a system prompt "
            f"({_shorten(error)}); choose another model"
        ) from None
    if QUESTION not in prompt or QUESTION not in answered or ANSWER not in answered:
        raise UserError(
            f"{name}: the chat template leaves out the question or the answer; choose another model"
        )
    return prompt, answered


def end_of_turn(tok: "PreTrainedTokenizerBase", name: str) -> str:
    """The control token that the template puts after an answer. Raises UserError if there is none."""
    _, _, tail = example_turns(tok, name)[1].rpartition(ANSWER)
    control = control_tokens(tok, template(tok, name))
    tokens = [
        token for token in control if tok.convert_ids_to_tokens(tok.convert_tokens_to_ids(token)) == token
    ]
    match = token_pattern(tokens).search(tail)
    if not match:
        raise UserError(
            f"{name}: the chat template puts no control token after an answer, so that nothing tells where "
            "it ends; choose another model"
        )
    return match[0]


def dated(tok: "PreTrainedTokenizerBase", **settings: Any) -> bool:
    """Whether a prompt, rendered with further settings for the template, changes with the date."""
    text, messages = template(tok, tok.name_or_path), [{"role": "user", "content": QUESTION}]
    rendered = {
        tok.apply_chat_template(messages, tokenize=False, chat_template=on(day, text), **settings)
        for day in (DATE, OTHER_DATE)
    }
    return len(rendered) > 1


def control_tokens(tok: "PreTrainedTokenizerBase", text: str) -> tuple[str, ...]:
    """A tokenizer's special tokens, its added tokens that the template writes, and the template's [NAME]s.

    Llama 2 and its kin know [INST] by its letters alone. A plain word that was added is a word of texts too.
    """
    added = [token for _, token in sorted(tok.added_tokens_decoder.items())]
    control = [token.content for token in added if token.special or _is_written(token.content, text)]
    return tuple(dict.fromkeys([*control, *tok.all_special_tokens, *MARKERS.findall(text)]))


def _is_written(token: str, template: str) -> bool:
    return len(token.strip()) > 2 and not token.isalnum() and token in template


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of these tokens in a text, the longest first."""
    longest = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def escape(control: re.Pattern[str], text: str) -> str:
    """The text with a space after the first character of each control token."""
    return control.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


def _render_escaped(
    render: Callable[..., Any], control: re.Pattern[str], conversation: Any, *args: Any, **settings: Any
) -> Any:
    return render(_escape_messages(control, conversation), *args, **settings)


def _escape_messages(control: re.Pattern[str], part: Any) -> Any:
    """A message, or a list of them at any depth, with the control tokens in its texts broken."""
    if isinstance(part, dict):
        return {key: escape(control, value) if key == "content" else value for key, value in part.items()}
    return [_escape_messages(control, item) for item in part]


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."
