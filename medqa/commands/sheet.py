"""`medqa sheet`: a sheet of held-out answers for a person to score, blind to which model wrote them."""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medqa import calibration, jsonl, people_scores
from medqa.people_scores import SheetRow
from medqa.records import Answer, HeldOut
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params
from medqa.sampling import draw_order

DATA, FOLDER = Path("data"), Path("data/people")
SHARE, LEAST = 0.05, 40  # of the open held-out questions; fewer than 40 make wide intervals
HELP = """Write a score from 0 to 1 beside each answer: 1 is right and complete, measured by the reference; 0
has nothing right. Decimals have a point. Leave empty what you cannot judge, and change nothing else. Save as
CSV with commas, in UTF-8. Then run dvc repro: the stage compare reads every sheet of {folder}."""


def add(parser: argparse.ArgumentParser) -> None:
    """Whose sheet, and how many questions."""
    parser.add_argument(
        "person", nargs="?", default="sheet", help="names the file; all people get the same answers"
    )
    parser.add_argument(
        "--questions", type=int, help=f"how many; by default {SHARE:.0%} of the open ones, at least {LEAST}"
    )


def run(options: argparse.Namespace) -> int:
    """Write the sheet, and print how to fill it in. Raises UserError if it is there, or no answers are."""
    seed, path = read_params().seed, FOLDER / f"{options.person}.csv"
    if not re.fullmatch(r"[\w-]+", options.person):
        raise UserError(f"the name {options.person!r} must be of letters, digits, - and _: it names the file")
    if path.exists():
        raise UserError(f"{path} is there already; fill it in, or name another sheet")
    held_out = list(jsonl.read(DATA / "heldout.jsonl", HeldOut))
    answers = {
        name: list(jsonl.read(DATA / "answers" / f"{name}.jsonl", Answer)) for name in calibration.MODELS
    }
    rows = draw(held_out, answers, seed, options.person, options.questions)
    people_scores.write(path, rows)
    print(f"{path}: {len(rows)} answers to {len({row.id for row in rows})} questions.")
    print(HELP.format(folder=FOLDER))
    return 0


def draw(
    held_out: Sequence[HeldOut],
    answers: Mapping[str, Sequence[Answer]],
    seed: int,
    person: str,
    count: int | None = None,
) -> list[SheetRow]:
    """The answers of all models to a random sample of the open questions that all of them answered.

    Whole questions are drawn, so that paired gains can be calibrated too. `seed` draws them; `person` only
    changes their order. A text that several models wrote is there once. Raises UserError for a `count`
    below 1, and if there is no such question.
    """
    texts: dict[str, list[str]] = {row.id: [] for row in held_out}
    for rows in answers.values():
        for row in rows:
            if row.correct is None and row.finish_reason != "failed" and row.id in texts:
                texts[row.id].append(row.text)
    ids = [id for id, each in texts.items() if len(each) == len(answers)]
    if not ids:
        raise UserError(
            f"{DATA / 'answers'} has no open question that all models answered; run dvc repro first"
        )
    if count is not None and count < 1:
        raise UserError(f"--questions {count} must be at least 1")
    size = count or max(LEAST, math.ceil(SHARE * len(ids)))
    drawn = set(sorted(ids, key=lambda id: draw_order(seed, f"sheet {id}"))[:size])
    sheet = [
        SheetRow(row.id, row.question, row.reference, text)
        for row in held_out
        if row.id in drawn
        for text in {people_scores.key(row.id, text): text for text in texts[row.id]}.values()
    ]
    return sorted(sheet, key=lambda row: draw_order(seed, f"{person} {row.id} {row.answer}"))
