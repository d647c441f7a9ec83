"""Which rows training can use: their prompts and answers in tokens, against `max_length`.

TRL 1.16 drops a row whose prompt alone reaches `max_length`, and cuts longer answers off there, in silence.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from medqa import chat, prompts
from medqa.records import Example, Pair
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

Row = TypeVar("Row", Example, Pair)

CHUNK = 1000  # rows tokenised together
LISTED = 8  # row ids in a message


@dataclass(frozen=True)
class LengthAudit(Generic[Row]):
    """What `max_length` makes of the rows of a training set."""

    rows: list[Row] = field(default_factory=list)  # to train on, in their order
    too_long: list[str] = field(default_factory=list)  # ids of rows left out: the prompt reaches max_length
    shortened: list[str] = field(default_factory=list)  # ids of `rows` that lose the end of an answer

    def counts(self, name: str) -> dict[str, int]:
        """As metrics: `name` counts the rows to train on; with those left out they add up to all."""
        return {
            name: len(self.rows),
            "left_out_too_long": len(self.too_long),
            "shortened": len(self.shortened),
        }

    def report(self, stage: str, max_length: int) -> None:
        """Print which rows are left out and which are shortened. Raises UserError if no row is left."""
        total = len(self.rows) + len(self.too_long)
        if not self.rows:
            raise UserError(
                f"none of the {total} rows can be trained on, for the prompt of each has {max_length} tokens "
                f"or more ({list_ids(self.too_long)}); raise {stage}.max_length"
            )
        for ids, outcome in (
            (self.too_long, "left out: the prompt alone reaches"),
            (self.shortened, "shortened: the end of an answer, which teaches to stop, lies beyond"),
        ):
            if ids:
                line = f"{len(ids)} of {total} rows {outcome} max_length = {max_length} tokens"
                print(f"{stage}: {line} ({list_ids(ids)})", file=sys.stderr, flush=True)


def audit_lengths(
    tok: "PreTrainedTokenizerBase", rows: Sequence[Row], answer_fields: Sequence[str], max_length: int
) -> LengthAudit[Row]:
    """Sort out rows as TRL will truncate them; `answer_fields` are the fields of a row that hold an answer.

    As in TRL, an answer begins where the tokens of the prompt and those of prompt and answer first differ.
    A row with an answer that has no token before `max_length` is left out.
    """
    audit = LengthAudit[Row]()
    end_of_turn = tok.convert_tokens_to_ids(chat.end_of_turn(tok, tok.name_or_path))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        questions = [prompts.ask(row.question) for row in chunk]
        tokens = [_tokenize(tok, questions, add_generation_prompt=True)]
        for name in answer_fields:
            answers = [prompts.reply(getattr(row, name)) for row in chunk]
            dialogues = [[*ask, *reply] for ask, reply in zip(questions, answers, strict=True)]
            tokens.append(_tokenize(tok, dialogues, add_generation_prompt=False))
        for row, prompt, *answered in zip(chunk, *tokens, strict=True):
            begin = min(chat.common_prefix(prompt, ids) for ids in answered)
            if begin >= min(max_length, *map(len, answered)):
                audit.too_long.append(row.id)
                continue
            audit.rows.append(row)
            if max(_answer_end(ids, begin, end_of_turn) for ids in answered) > max_length:
                audit.shortened.append(row.id)
    return audit


def check_trainer_rows(trainer: "Trainer", rows: Sequence[dict[str, object]]) -> None:
    """Raise UserError unless a trainer's prepared rows are the rows it received, in the same order."""
    before, after = [str(row["id"]) for row in rows], list(trainer.train_dataset["id"])
    if before == after:
        return
    missing = sorted(set(before) - set(after))
    raise UserError(
        f"TRL made {len(after)} rows of {len(before)} "
        f"({'without ' + list_ids(missing) if missing else 'in another order, or some twice'}), so that "
        "training would be on other rows than the metrics count; install trl as constraints.txt has it"
    )


def list_ids(ids: Sequence[str]) -> str:
    """The first ids as text, and how many more there are."""
    return ", ".join(ids[:LISTED]) + (f" and {len(ids) - LISTED} more" if len(ids) > LISTED else "")


def _answer_end(ids: list[int], begin: int, end_of_turn: int) -> int:
    """The position after an answer's end of turn; a template may let a line break follow it."""
    return next((i + 1 for i in range(len(ids) - 1, begin - 1, -1) if ids[i] == end_of_turn), len(ids))


def _tokenize(
    tok: "PreTrainedTokenizerBase", dialogues: list[prompts.Messages], add_generation_prompt: bool
) -> list[list[int]]:
    return tok.apply_chat_template(
        dialogues, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
    )["input_ids"]
