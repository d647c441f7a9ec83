"""Which rows training can use: their prompts and answers in tokens, against `max_length`.

TRL 1.16 drops a row whose prompt alone reaches `max_length`, and cuts longer answers off there. It says
neither.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medqa import chat, prompts
from medqa.runtime import distributed
from medqa.runtime.errors import UserError

CHUNK = 1000  # rows tokenised at once
NAMED = 8  # row ids in a message


@dataclass(frozen=True)
class Fit:
    """What `max_length` makes of the rows of a training set."""

    rows: list[Any]  # that are trained on, in their order
    too_long: list[str]  # ids of the others: their prompt alone reaches max_length
    shortened: list[str]  # ids of `rows` whose answer, or one of whose answers, loses its end

    def counts(self, name: str) -> dict[str, int]:
        """As metrics; the rows that are trained on, under `name`, and those left out add up to all."""
        return {
            name: len(self.rows),
            "left_out_too_long": len(self.too_long),
            "shortened": len(self.shortened),
        }


def fit(tok: Any, rows: Sequence[Any], sides: Sequence[str], max_length: int) -> Fit:
    """Rows with a `question` and answers in the fields `sides`, sorted out as TRL will truncate them.

    As in TRL, an answer begins where the tokens of the prompt alone and of prompt and answer part, and a row
    without a token of an answer before `max_length` is of no use.
    """
    result, end = Fit([], [], []), tok.convert_tokens_to_ids(chat.end_of_turn(tok, tok.name_or_path))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        turns = [prompts.ask(row.question) for row in chunk]
        wholes = [
            [[*turn, *prompts.reply(getattr(row, side))] for turn, row in zip(turns, chunk, strict=True)]
            for side in sides
        ]
        tokens = [_ids(tok, turns, True), *(_ids(tok, whole, False) for whole in wholes)]
        for row, prompt, *answered in zip(chunk, *tokens, strict=True):
            begin = min(chat.common_prefix(prompt, ids) for ids in answered)
            if begin >= min(max_length, *map(len, answered)):
                result.too_long.append(row.id)
                continue
            result.rows.append(row)
            if max(_end(ids, begin, end) for ids in answered) > max_length:
                result.shortened.append(row.id)
    return result


def usable(label: str, tok: Any, rows: Sequence[Any], sides: Sequence[str], max_length: int) -> Fit:
    """`fit`, and a line on stderr for rows that are left out and for rows that are shortened.

    Raises UserError if no row is left.
    """
    result = fit(tok, rows, sides, max_length)
    if not result.rows:
        raise UserError(
            f"none of the {len(rows)} rows can be trained on, for the prompt of each has {max_length} tokens "
            f"or more ({named(result.too_long)}); raise {label}.max_length"
        )
    for ids, what in (
        (result.too_long, "left out: the prompt alone reaches"),
        (result.shortened, "shortened: the end of an answer, which teaches to stop, lies beyond"),
    ):
        if ids and distributed.rank() == 0:
            line = f"{label}: {len(ids)} of {len(rows)} rows {what} max_length = {max_length} tokens ({named(ids)})"
            print(line, file=sys.stderr, flush=True)
    return result


def check(trainer: Any, rows: Sequence[Any]) -> None:
    """Raise UserError if the rows that a trainer made ready are not those that it was given, one by one, in
    order.
    """
    before, after = [row.id for row in rows], list(trainer.train_dataset["id"])
    if before == after:
        return
    missing = sorted(set(before) - set(after))
    raise UserError(
        f"TRL made {len(after)} rows of {len(before)} "
        f"({'without ' + named(missing) if missing else 'in another order, or some twice'}), so that training would "
        "be on other rows than the metrics count; install trl as constraints.txt has it"
    )


def named(ids: Sequence[str]) -> str:
    """The first ids in words, and how many more there are."""
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")


def _end(ids: list[int], begin: int, end: int) -> int:
    """Where an answer ends: after its end of turn, which some templates let a line break follow."""
    return next((at + 1 for at in range(len(ids) - 1, begin - 1, -1) if ids[at] == end), len(ids))


def _ids(tok: Any, turns: Sequence[prompts.Messages], ask: bool) -> list[list[int]]:
    return tok.apply_chat_template(list(turns), tokenize=True, return_dict=True, add_generation_prompt=ask)[
        "input_ids"
    ]
