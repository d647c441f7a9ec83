"""`medqa preview`: rows as the model sees them, their lengths in tokens, and what `max_length` cuts."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medqa import jsonl, prompts
from medqa.records import Example, HeldOut, Labelled, Question
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params
from medqa.sampling import draw_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE = Path("models/base")
# The file of each kind of rows, its record, and the fields that hold answers.
KINDS: dict[str, tuple[Path, type, tuple[str, ...]]] = {
    "sft": (Path("data/sft.jsonl"), Example, ("answer",)),
    "questions": (Path("data/questions.jsonl"), Question, ("reference",)),
    "heldout": (Path("data/heldout.jsonl"), HeldOut, ("reference",)),
    "labelled": (Path("data/labelled.jsonl"), Labelled, ("chosen", "rejected")),
}
CHUNK = 1000  # rows tokenised together
START, END, CUT = ">>>", "<<<", "~~~"


@dataclass(frozen=True)
class Dialogue:
    """The tokens of a question with one of its answers; the answer's begin at `begin`."""

    id: str
    field: str  # that holds the answer
    ids: list[int]
    begin: int


def add(parser: argparse.ArgumentParser) -> None:
    """Which rows, and how many."""
    parser.add_argument("rows", nargs="?", choices=KINDS, default="sft", help="which rows (%(default)s)")
    parser.add_argument("-n", type=int, default=3, help="how many rows to show (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Print rows drawn by the seed, and the lengths of all. Raises UserError without data or base."""
    params = read_params()
    path, record, fields = KINDS[options.rows]
    if not path.is_file() or not (BASE / "config.json").is_file():
        raise UserError(f"{path} and {BASE} are needed; dvc repro data models@base makes them")
    rows: list[Any] = sorted(jsonl.read(path, record), key=lambda row: draw_order(params.seed, row.id))
    if not rows:
        raise UserError(f"{path} has no rows; metrics/data.json says what became of them")
    from medqa import model

    tok = model.tokenizer(BASE)
    dialogues = list(tokenize(tok, rows, fields))
    # Only SFT trains on these answers. DPO has the policy's own, after the same prompts.
    limit = params.sft.max_length if options.rows == "sft" else None
    for dialogue in islice(dialogues, max(options.n, 0) * len(fields)):
        print(describe(tok, dialogue, limit))
    if limit:
        print(f"The loss covers what is between {START} and {END}; behind {CUT} max_length cuts it off.\n")
    print(f"{len(rows)} rows of {path}, in tokens of {BASE}:")
    parts = {"prompt": [dialogue.begin for dialogue in dialogues]}
    parts |= {
        name: [len(each.ids) - each.begin for each in dialogues if each.field == name] for name in fields
    }
    parts["in all"] = [len(dialogue.ids) for dialogue in dialogues]
    for name, lengths in parts.items():
        print(f"  {name:10} {distribution(lengths)}")
    if limit:
        share = np.mean([length > limit for length in parts["in all"]])
        print(f"  {share:.1%} are over sft.max_length = {limit}")
    return 0


def tokenize(
    tok: "PreTrainedTokenizerBase", rows: Sequence[Any], fields: Sequence[str]
) -> Iterator[Dialogue]:
    """Each row's question with each of its answers, rendered by the model's chat template as in training."""
    from medqa import chat

    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        questions = [prompts.ask(row.question) for row in chunk]
        opened = _render(tok, questions, add_generation_prompt=True)
        by_field = {}
        for name in fields:
            answers = [prompts.reply(getattr(row, name)) for row in chunk]
            both = [[*ask, *reply] for ask, reply in zip(questions, answers, strict=True)]
            by_field[name] = _render(tok, both, add_generation_prompt=False)
        for index, row in enumerate(chunk):
            for name, rendered in by_field.items():
                ids = rendered[index]
                yield Dialogue(row.id, name, ids, chat.common_prefix(opened[index], ids))


def _render(
    tok: "PreTrainedTokenizerBase", dialogues: list[prompts.Messages], add_generation_prompt: bool
) -> list[list[int]]:
    rendered = tok.apply_chat_template(
        dialogues, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
    )
    return list(rendered["input_ids"])


def describe(tok: "PreTrainedTokenizerBase", dialogue: Dialogue, limit: int | None) -> str:
    """A dialogue as text with its control tokens. With a limit, its loss and its cut are marked."""
    ids, begin = dialogue.ids, dialogue.begin
    end = min(limit or len(ids), len(ids))
    head = f"{dialogue.id}, {dialogue.field}: {begin} tokens of prompt and {len(ids) - begin} of answer"
    if limit is None:
        text = tok.decode(ids)
    elif begin >= end:
        text, head = tok.decode(ids), f"{head}; left out, for the prompt reaches max_length"
    else:
        cut = f"{CUT}{tok.decode(ids[end:])}" if end < len(ids) else ""
        text = f"{tok.decode(ids[:begin])}{START}{tok.decode(ids[begin:end])}{END}{cut}"
        head += f"; {len(ids) - end} are cut off" * bool(cut)
    return "\n".join([head, *(f"  | {line}" for line in text.splitlines()), ""])


def distribution(lengths: Sequence[int]) -> str:
    """The least, the median, the 95th percentile and the highest of lengths."""
    middle, high = np.percentile(lengths, [50, 95])
    return f"min {min(lengths)}, median {middle:.0f}, p95 {high:.0f}, max {max(lengths)}"
