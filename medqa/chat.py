"""How a model is spoken to: its chat template, what ends a turn, its control tokens, its context.

Each model brings its own format. It is read from the tokenizer, the configuration and the template itself; the stage
`models` refuses a model whose format does not hold here, and records the others' in chat.json.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from medqa import hub
from medqa.params import UserError

RECORD = "chat.json"
DATE = date(2025, 1, 1)  # what a template takes for today: prompts, rows and trained models are the same on any day
OTHER_DATE = date(2031, 12, 28)
CLOCK = "strftime_now"  # the function of transformers that a template asks for the time
QUESTION, ANSWER = "What is gout?", "A disease of the joints."
MARKERS = re.compile(r"\[/?[A-Z_]{2,}\]|<</?[A-Z_]{2,}>>")
LONGEST = 10**9  # tokens: tokenizers without a limit name a far larger number
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
STRETCHED = ("linear", "dynamic", "yarn")  # rotary scalings beside which the configuration may name the length before


@dataclass(frozen=True)
class ChatFormat:
    """The facts of one model's chat format; without any, of one about which nothing is known."""

    template: str = ""  # sha256 of the chat template's text
    dated: bool = False  # whether prompts change with the date
    turns: str = ""  # a question and an answer, rendered on DATE
    continues: bool = True  # whether a prompt is how the answered conversation begins
    ends: dict[str, int] = field(default_factory=dict)  # tokens that end an answer
    control: tuple[str, ...] = ()  # tokens that mean something to the model and that no text may bring
    context: int | None = None  # tokens of prompt and answer; none if no limit is known

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return _pattern(self.control)

    def plain(self, text: str) -> str:
        """The text with the model's control tokens broken, of whatever form: a space after the first character."""
        return _break(self._control, text)

    def check_room(self, max_new_tokens: int) -> None:
        """Raise UserError if an answer may be as long as the context."""
        if self.context and max_new_tokens >= self.context:
            raise UserError(
                f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in the model's context of "
                f"{self.context} tokens; lower it"
            )

    def described(self) -> list[str]:
        """The format in lines for the screen."""
        ends = ", ".join(f"{token!r} ({number})" for token, number in self.ends.items())
        shown = ", ".join(self.control[:6]) + (f" and {len(self.control) - 6} more" if len(self.control) > 6 else "")
        date = f"says the date, which is always {DATE} here" if self.dated else "says no date"
        return [
            f"chat template {self.template[:12]} {date}: {self.turns!r}",
            f"an answer ends with {ends}",
            f"control tokens, broken in every text: {shown}",
            f"context: {f'{self.context} tokens' if self.context else 'no limit is known'}",
        ]


def tokenizer(model_dir: Path) -> Any:
    """The tokenizer of a model directory or pin, padding on the left, as generation and prefill need it.

    It renders messages as they are rendered everywhere here: on DATE, with the model's control tokens broken.
    Raises UserError without a chat template.
    """
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(hub.local_path(model_dir))
    tok.padding_side = "left"
    template = _template(tok, str(model_dir))
    if isinstance(tok.chat_template, dict):
        tok.chat_template["default"] = _on(DATE, template)
    else:
        tok.chat_template = _on(DATE, template)
    # No loss or attention here is told by the padding what to leave out: it may be an end of turn too.
    tok.pad_token = tok.pad_token or tok.eos_token or _end(tok, template, str(model_dir))
    tok.apply_chat_template = partial(_rendered, tok.apply_chat_template, _pattern(control_tokens(tok, template)))
    return tok


def read(model_dir: Path) -> ChatFormat:
    """What the stage `models` recorded of a model directory, or, without a record, what its files say."""
    path = model_dir / RECORD
    if not path.is_file():
        return look(model_dir)
    recorded = json.loads(path.read_text(encoding="utf-8"))
    return ChatFormat(**recorded | {"control": tuple(recorded["control"])})


def write(model_dir: Path, format: ChatFormat) -> None:
    """Record a model's format in its directory."""
    text = json.dumps(asdict(format), indent=2, ensure_ascii=False) + "\n"
    (model_dir / RECORD).write_text(text, encoding="utf-8")


def look(model_dir: Path) -> ChatFormat:
    """The format of a model directory or pin, from its files. Raises UserError as `inspect` does."""
    folder, tok = hub.local_path(model_dir), tokenizer(model_dir)
    names = ("config.json", "generation_config.json")
    paths = [folder / name for name in names]
    config, generation = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in paths)
    return inspect(tok, config, generation, str(model_dir))


def inspect(tok: Any, config: dict[str, Any], generation: dict[str, Any], name: str) -> ChatFormat:
    """The format of a model from its tokenizer, its configuration and that of its generation.

    Raises UserError for one that does not hold here: no chat template; one that refuses a lone question, leaves texts
    out, or ends no answer; a control token that a text could bring into a prompt.
    """
    template = _template(tok, name)
    prompt, turns = _turns(tok, template, name)
    control = control_tokens(tok, template)
    end = _end(tok, template, name)
    format = ChatFormat(
        template=hashlib.sha256(template.encode()).hexdigest(),
        dated=dated(tok),
        turns=turns,
        continues=turns.startswith(prompt),
        ends=_ends(tok, end, config, generation),
        control=control,
        context=context(config, tok.model_max_length),
    )
    _check_control(tok, format, name)
    return format


def control_tokens(tok: Any, template: str) -> tuple[str, ...]:
    """What a tokenizer calls special, what was added to it and the template writes, and the template's [NAME]s.

    Llama 2 and its kin know [INST] by its letters alone.
    """
    added = [token for _, token in sorted(tok.added_tokens_decoder.items())]
    named = [token.content for token in added if token.special or (token.content.strip() and token.content in template)]
    return tuple(dict.fromkeys([*named, *tok.all_special_tokens, *MARKERS.findall(template)]))


def dated(tok: Any, **settings: Any) -> bool:
    """Whether a prompt, rendered with further settings for the template, changes with the date."""
    template, asked = _template(tok, ""), [{"role": "user", "content": QUESTION}]
    one, other = (
        tok.apply_chat_template(asked, tokenize=False, chat_template=_on(day, template), **settings)
        for day in (DATE, OTHER_DATE)
    )
    return one != other


def context(config: dict[str, Any], tokenizer_limit: float) -> int | None:
    """How many tokens a model reads at most, by its configuration with rotary scaling, and by its tokenizer."""
    config = config.get("text_config") or config
    length = next((config[name] for name in LENGTHS if config.get(name)), None)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    # Llama 3, longrope and Gemma 3 name the length after it.
    if length and kind in STRETCHED and scaling.get("factor"):
        before = scaling.get("original_max_position_embeddings") or length
        length = max(length, int(before * scaling["factor"]))
    known = [limit for limit in (length, tokenizer_limit) if limit and 16 <= limit < LONGEST]
    return int(min(known)) if known else None


def _template(tok: Any, name: str) -> str:
    """The text of the chat template, as the model has it."""
    try:
        return tok.get_chat_template().removeprefix(_clock(DATE))
    except ValueError:
        raise UserError(
            f"{name}: the tokenizer has no chat template (a base model that was never taught to chat?); choose the "
            "model's instruct or chat version"
        ) from None


def _on(day: date, template: str) -> str:
    """The template as it is rendered on a day."""
    return _clock(day) + template if CLOCK in template else template


def _clock(day: date) -> str:
    """A macro that stands still: put before a template, it takes the place of the library's function."""
    parts = [*"aAbBdeHIjmMpSuyY", "-d", "-m"]
    read = "".join(f" | replace('%{part}', '{day.strftime(f'%{part}')}')" for part in parts)
    # The plus keeps a newline with which the template begins.
    return f"{{% macro {CLOCK}(format) -%}}{{{{ format{read} }}}}{{%- endmacro +%}}"


def _turns(tok: Any, template: str, name: str) -> tuple[str, str]:
    """A lone question as a prompt, and with its answer."""
    asked = [{"role": "user", "content": QUESTION}]
    render = partial(tok.apply_chat_template, tokenize=False, chat_template=_on(DATE, template))
    try:
        prompt = render(asked, add_generation_prompt=True)
        turns = render([*asked, {"role": "assistant", "content": ANSWER}])
    except Exception as error:  # a template is a program: any error may come out of it
        why = " ".join(str(error).split())[:120]
        raise UserError(
            f"{name}: the chat template refuses a question and an answer without a system prompt ({why}); choose "
            "another model"
        ) from None
    if QUESTION not in prompt or QUESTION not in turns or ANSWER not in turns:
        raise UserError(f"{name}: the chat template leaves out the question or the answer; choose another model")
    return prompt, turns


def _end(tok: Any, template: str, name: str) -> str:
    """The control token that the template puts after an answer."""
    tail = _turns(tok, template, name)[1].rpartition(ANSWER)[2]
    tokens = tuple(
        token
        for token in control_tokens(tok, template)
        if tok.convert_ids_to_tokens(tok.convert_tokens_to_ids(token)) == token
    )
    match = _pattern(tokens).search(tail)
    if not match:
        raise UserError(
            f"{name}: the chat template puts no control token after an answer, so that nothing tells where it ends; "
            "choose another model"
        )
    return match[0]


def _ends(tok: Any, end: str, *configs: dict[str, Any]) -> dict[str, int]:
    """The tokens, with their ids, that any source calls an end; padding is no part of an answer either."""
    ids = {tok.convert_tokens_to_ids(end), tok.eos_token_id, tok.pad_token_id}
    for config in configs:
        stated = config.get("eos_token_id")
        ids.update(stated if isinstance(stated, list) else [stated])
    known = sorted(number for number in ids if isinstance(number, int) and 0 <= number < len(tok))
    return {tok.convert_ids_to_tokens(number): number for number in known}


def _check_control(tok: Any, format: ChatFormat, name: str) -> None:
    broken = [f"a{format.plain(token)}b" for token in format.control]
    # A tokenizer without bytes reads what it does not know as its unknown token; that one is no danger.
    numbers = {*tok.convert_tokens_to_ids(list(format.control))} - {tok.unk_token_id, None}
    for token, ids in zip(format.control, tok(broken, add_special_tokens=False).input_ids, strict=True):
        if numbers & {*ids}:
            raise UserError(
                f"{name}: the tokenizer's control token {token!r} cannot be broken by a space, so that a text could "
                "bring it into a prompt; choose another model"
            )


def _pattern(control: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(control, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def _break(control: re.Pattern[str], text: str) -> str:
    return control.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


def _rendered(render: Callable[..., Any], control: re.Pattern[str], conversation: Any, *args: Any, **named: Any) -> Any:
    return render(_plain_messages(control, conversation), *args, **named)


def _plain_messages(control: re.Pattern[str], part: Any) -> Any:
    """Messages, or lists of them, with the control tokens in their texts broken."""
    if isinstance(part, dict):
        return {key: _break(control, value) if key == "content" else value for key, value in part.items()}
    return [_plain_messages(control, each) for each in part]
