"""Imported rows in splits by prompt, in UltraMedical's formats; code makes rejected answers if need be."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from medqa.importing.rows import Row
from medqa.runtime.errors import UserError
from medqa.sampling import draw_order
from medqa.sources.options import list_options
from medqa.sources.ultramedical import parse_preference, parse_sft
from medqa.text import key_points, normalize

PREFERENCE = ("train", "dev", "test")
MADE = {  # by label type: what the rejected answer is
    "easy": "another question's answer",
    "missing_point": "the answer without one of its sentences",
    "wrong_detail": "the answer with a sentence of another one",
}
TRIES = 20  # of another answer, where many are equal
LEAST = 10  # prompts

Splits = dict[str, list[dict[str, Any]]]


def split(rows: Sequence[Row], shares: dict[str, float], seed: int) -> dict[str, list[Row]]:
    """The rows of each split: those of `shares` (of the prompts, at least one each), and `sft` with the rest.

    Rows of one prompt stay together. Raises UserError for shares that leave nothing, or too few prompts.
    """
    keys = sorted({row.key for row in rows}, key=lambda key: draw_order(seed, key))
    if len(keys) < LEAST:
        raise UserError(f"{len(keys)} different questions are too few: at least {LEAST} are needed")
    if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
        options = ", ".join(f"--{name}" for name in ("dev", "test", "questions"))
        raise UserError(f"{options} must be shares above 0 that leave a rest for SFT")
    split_by_key, start = dict.fromkeys(keys, "sft"), 0
    for name, share in shares.items():
        count = max(1, round(share * len(keys)))
        split_by_key |= dict.fromkeys(keys[start : start + count], name)
        start += count
    splits: dict[str, list[Row]] = {name: [] for name in ("sft", *shares)}
    for row in rows:
        splits[split_by_key[row.key]].append(row)
    return splits


def formatted(splits: dict[str, list[Row]], seed: int) -> tuple[Splits, Counter[str], Counter[str]]:
    """The rows of each split in their format; the counts of rejected answers made, and of rows left out.

    Every row that comes out is one that the stage `data` can parse.
    """
    answers = [row for rows in splits.values() for row in rows]
    out: Splits = {name: [] for name in splits}
    made: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for name, rows in splits.items():
        for row in rows:
            try:
                value = _sft(row) if name == "sft" else _preference(row, answers, seed)
            except ValueError as error:
                left_out[str(error)] += 1
                continue
            out[name].append(value)
            if name != "sft" and not row.rejected:
                made[value["label_type"]] += 1
    return out, made, left_out


def _sft(row: Row) -> dict[str, Any]:
    kind = "Exam" if len(list_options(row.question)) >= 3 else "Open-End"
    turns = [{"from": "human", "value": row.question}, {"from": "gpt", "value": row.answer}]
    value = {"id": row.id, "type": kind, "conversations": turns, "answer": None, "score": None}
    parse_sft(value)
    return value


def _preference(row: Row, answers: Sequence[Row], seed: int) -> dict[str, Any]:
    """A preference row. Raises ValueError with the reason if none can be made."""
    metadata = {"attribute": row.attribute or None, "labelled_by": row.labelled_by or None}
    if row.rejected:
        label_type = "human" if row.labelled_by == "people" else "hard"
        return _parsed(row, label_type, row.answer, row.rejected, metadata | {"golden_answer": row.reference})
    label_type, rejected = _make_worse(row, answers, random.Random(f"rejected {seed} {row.id}"))
    metadata |= {"labelled_by": "code", "golden_answer": row.reference}
    first, *rest = key_points(row.answer)
    if row.reference or not rest:
        return _parsed(row, label_type, row.answer, rejected, metadata)
    # The answer is the reference. In another order of its sentences, a judge that only recognises it fails.
    chosen = " ".join([*rest, first])
    try:
        return _parsed(row, label_type, chosen, rejected, metadata | {"golden_answer": row.answer})
    except ValueError:  # the answer looks like a letter of an option
        return _parsed(row, label_type, row.answer, rejected, metadata)


def _parsed(
    row: Row, label_type: str, chosen: str, rejected: str, metadata: dict[str, Any]
) -> dict[str, Any]:
    def turns(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": row.question}, {"role": "assistant", "content": answer}]

    value = {
        "prompt_id": row.id,
        "label_type": label_type,
        "prompt": row.question,
        "chosen": turns(chosen),
        "rejected": turns(rejected),
        "metadata": {key: text for key, text in metadata.items() if text},
    }
    parse_preference(value)
    return value


def _make_worse(row: Row, answers: Sequence[Row], rng: random.Random) -> tuple[str, str]:
    """A label type of MADE, and the answer made worse in that way; a single sentence is replaced whole."""
    points = key_points(row.answer)
    label_type = rng.choice(list(MADE)) if len(points) > 1 else "easy"
    index = rng.randrange(len(points))
    for _ in range(TRIES):
        neighbour = rng.choice(answers)
        if neighbour.key == row.key:
            continue
        replacement = [rng.choice(key_points(neighbour.answer))] if label_type == "wrong_detail" else []
        changed = " ".join([*points[:index], *replacement, *points[index + 1 :]])
        worse = neighbour.answer if label_type == "easy" else changed
        if normalize(worse) != normalize(row.answer):
            return label_type, worse
    raise ValueError("no other answer to make a rejected one of")
