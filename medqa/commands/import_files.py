"""`medqa import`: a table of questions and answers becomes the files that the preset `files` reads."""

import argparse
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from medqa import jsonl
from medqa.importing import rows, splits, tables
from medqa.importing.rows import Columns, Row
from medqa.runtime.errors import UserError

FILES = {"sft": "sft.jsonl"} | {name: f"preference_{name}.json" for name in splits.PREFERENCE}
LISTED = 5  # lines of the file that are named
EXCERPT = 90  # characters of an example
NEXT = """Next: medqa preset files (tiny models, minutes) or smollm2-files (real weights, under an hour);
medqa preview shows the rows as a model reads them, after dvc repro data models@base; dvc repro runs all."""


def add(parser: argparse.ArgumentParser) -> None:
    """The file, its columns, and the shares of the splits."""
    parser.add_argument("file", type=Path, help="CSV, TSV, JSON, JSON lines or parquet")
    parser.add_argument("--question", required=True, metavar="COLUMN", help="the column of questions")
    parser.add_argument("--answer", required=True, metavar="COLUMN", help="of answers to learn")
    parser.add_argument("--reference", default="", metavar="COLUMN", help="of what is right; else the answer")
    parser.add_argument(
        "--rejected", default="", metavar="COLUMN", help="of worse answers; else code makes them"
    )
    parser.add_argument("--attribute", default="", metavar="COLUMN", help="of what a question is about")
    parser.add_argument(
        "--labelled-by", default="", metavar="COLUMN", help="of who labelled: code, people, model: NAME"
    )
    for name, share, use in (
        ("dev", 0.1, "held out"),
        ("test", 0.1, "held out too"),
        ("questions", 0.3, "for candidates and DPO; the rest is for SFT"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"of the questions, {use} (%(default)s)",
        )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("data/raw"), help="to write to (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace files of the folder")


def run(options: argparse.Namespace) -> int:
    """Write the four files, and say what became of the rows. Raises UserError; then nothing is written."""
    existing = [name for name in FILES.values() if (options.folder / name).exists()]
    if existing and not options.force:
        raise UserError(f"{options.folder} has {', '.join(existing)} already; --force replaces them")
    table = tables.read(options.file)
    columns = Columns(**{name: getattr(options, name) for name in Columns.__dataclass_fields__})
    sound, left_out = rows.read_rows(table, columns)
    print(f"{options.file}: {len(table.rows)} rows ({table.format}), {len(sound)} of them sound")
    for reason, lines in left_out.items():
        print(f"left out: {len(lines)} with {_listed(reason, lines)}")
    shares = {"dev": options.dev, "test": options.test, "train": options.questions}
    drawn = splits.split(sound, shares, options.seed)
    values, made, unfit = splits.formatted(drawn, options.seed)
    for reason, count in unfit.items():
        print(f"left out: {count} with {reason}")
    if empty := [FILES[name] for name in FILES if not values[name]]:
        raise UserError(f"no row is left for {', '.join(empty)}; see what was left out above")
    _write(options.folder, values)
    print(f"{options.folder}: " + ", ".join(f"{FILES[name]} {len(values[name])} rows" for name in FILES))
    if made:
        _print_made(made)
    _print_examples(drawn)
    print(NEXT)
    return 0


def _listed(reason: str, lines: list[int]) -> str:
    more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return f"{reason} (line {', '.join(map(str, lines[:LISTED]))}{more})"


def _write(folder: Path, values: splits.Splits) -> None:
    """All files, or none if one of them fails."""
    with ExitStack() as stack:
        for name, file_name in FILES.items():
            file = stack.enter_context(jsonl.atomic_write(folder / file_name))
            file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values[name])


def _print_made(made: Mapping[str, int]) -> None:
    kinds = ", ".join(f"{made[name]} {text}" for name, text in splits.MADE.items() if made[name])
    print(f"rejected answers made by code (labelled_by: code): {kinds}.")
    print("The agreement then says how well the judge tells an answer from a corrupted one, and no more:")
    print("people's preferences, in a column of --rejected, say more.")


def _print_examples(drawn: Mapping[str, list[Row]]) -> None:
    for name in ("sft", "train", "dev"):
        row = drawn[name][0]
        print(f"  {FILES[name]}, {row.id}: {_short(row.question)}")
        print(f"    {_short(row.answer)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"
