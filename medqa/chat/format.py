"""The chat format of a model: its template, the ends of an answer, its control tokens, its context.

Each model brings its own format. It is derived from the tokenizer, the configuration and the template. The
stage `models` refuses a model whose format does not hold here, and records every other one in chat.json.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa import hub
from medqa.chat import rendering
from medqa.chat.rendering import DATE, dated, tokenizer
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECORD = "chat.json"
NO_LIMIT = 10**9  # tokens: tokenizers without a limit name a far larger number
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# Rotary scalings beside which the configuration may name the length before scaling. Llama 3, longrope and
# Gemma 3 name the length after it.
SCALED = ("linear", "dynamic", "yarn")
SHOWN_TOKENS = 6


@dataclass(frozen=True)
class ChatFormat:
    """The facts of one model's chat format; the defaults are those of an unknown model."""

    template: str = ""  # sha256 of the chat template's text
    dated: bool = False  # whether prompts change with the date
    turns: str = ""  # a question and an answer, rendered on DATE
    continues: bool = True  # whether the answered conversation begins with the prompt
    ends: dict[str, int] = field(default_factory=dict)  # tokens that end an answer, with their ids
    control: tuple[str, ...] = ()  # tokens that mean something to the model and that no text may bring
    context: int | None = None  # tokens of prompt and answer; None if no limit is known

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return rendering.token_pattern(self.control)

    def escape_control_tokens(self, text: str) -> str:
        """The text with a space after the first character of each of the model's control tokens."""
        return rendering.escape(self._control, text)

    def check_room(self, max_new_tokens: int) -> None:
        """Raise UserError if an answer may be as long as the context."""
        if self.context and max_new_tokens >= self.context:
            raise UserError(
                f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in the model's context of "
                f"{self.context} tokens; lower it"
            )

    def summary_lines(self) -> list[str]:
        """The format in lines for the screen."""
        ends = " or ".join(self.ends)
        hidden = len(self.control) - SHOWN_TOKENS
        control = ", ".join(self.control[:SHOWN_TOKENS]) + (f" and {hidden} more" if hidden > 0 else "")
        date = f"says the date, which is always {DATE} here" if self.dated else "says no date"
        context = f"{self.context:,} tokens" if self.context else "no limit is known"
        return [
            f"the chat template {date}; context: {context}",
            f"an answer ends with {ends}; control tokens, broken in every text: {control}",
        ]


def read(model_dir: Path) -> ChatFormat:
    """The format that the stage `models` recorded in a model directory; without a record, as `detect`."""
    path = model_dir / RECORD
    if not path.is_file():
        return detect(model_dir)
    recorded = json.loads(path.read_text(encoding="utf-8"))
    return ChatFormat(**recorded | {"control": tuple(recorded["control"])})


def write(model_dir: Path, format: ChatFormat) -> None:
    """Record a model's format in its directory."""
    text = json.dumps(asdict(format), indent=2, ensure_ascii=False) + "\n"
    (model_dir / RECORD).write_text(text, encoding="utf-8")


def detect(model_dir: Path) -> ChatFormat:
    """The format of a model directory or pin, derived from its files.

    Raises UserError as `from_tokenizer` does, and for a model that cannot be read or that writes no text.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder, tok = hub.local_path(model_dir), tokenizer(model_dir)
    config = rendering.from_pretrained(AutoConfig, folder, f"{model_dir}: config.json")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"{model_dir}: a model of the type {config.model_type} writes no text; choose a causal one"
        )
    generation: dict[str, Any] = {}
    if (folder / "generation_config.json").is_file():
        label = f"{model_dir}: generation_config.json"
        generation = rendering.from_pretrained(GenerationConfig, folder, label).to_dict()
    return from_tokenizer(tok, config.to_dict(), generation, str(model_dir))


def from_tokenizer(
    tok: "PreTrainedTokenizerBase", config: dict[str, Any], generation: dict[str, Any], name: str
) -> ChatFormat:
    """The format of a model, derived from its tokenizer, its configuration and its generation settings.

    Raises UserError for a format that does not hold here: no chat template; one that refuses a lone question,
    leaves texts out, or ends no answer; a control token that a text could bring into a prompt.
    """
    template = rendering.template(tok, name)
    prompt, turns = rendering.example_turns(tok, name)
    format = ChatFormat(
        template=hashlib.sha256(template.encode()).hexdigest(),
        dated=dated(tok),
        turns=turns,
        continues=turns.startswith(prompt),
        ends=_ends(tok, rendering.end_of_turn(tok, name), config, generation),
        control=rendering.control_tokens(tok, template),
        context=context(config, tok.model_max_length),
    )
    _check_control(tok, format, name)
    return format


def context(config: dict[str, Any], tokenizer_limit: float) -> int | None:
    """The most tokens that a model reads, by its configuration with rotary scaling and by its tokenizer."""
    config = config.get("text_config") or config
    length = next((config[name] for name in LENGTHS if config.get(name)), None)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    if length and kind in SCALED and scaling.get("factor"):
        unscaled = scaling.get("original_max_position_embeddings") or length
        length = max(length, int(unscaled * scaling["factor"]))
    limits = [limit for limit in (length, tokenizer_limit) if limit and 16 <= limit < NO_LIMIT]
    return int(min(limits)) if limits else None


def _ends(tok: "PreTrainedTokenizerBase", end: str, *configs: dict[str, Any]) -> dict[str, int]:
    """The tokens, with their ids, that any of the files calls an end; padding ends an answer too."""
    ids = {tok.convert_tokens_to_ids(end), tok.eos_token_id, tok.pad_token_id}
    for config in configs:
        stated = config.get("eos_token_id")
        ids.update(stated if isinstance(stated, list) else [stated])
    known = sorted(number for number in ids if isinstance(number, int) and 0 <= number < len(tok))
    return {tok.convert_ids_to_tokens(number): number for number in known}


def _check_control(tok: "PreTrainedTokenizerBase", format: ChatFormat, name: str) -> None:
    escaped = [f"a{format.escape_control_tokens(token)}b" for token in format.control]
    # A tokenizer without bytes reads what it does not know as its unknown token, which is no danger.
    control_ids = {*tok.convert_tokens_to_ids(list(format.control))} - {tok.unk_token_id, None}
    for token, ids in zip(format.control, tok(escaped, add_special_tokens=False).input_ids, strict=True):
        if control_ids & {*ids}:
            raise UserError(
                f"{name}: the tokenizer's control token {token!r} cannot be broken by a space, so that a "
                "text could bring it into a prompt; choose another model"
            )
