"""People's scores of held-out answers: sheets in CSV, one per person."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from medqa import jsonl
from medqa.runtime.errors import UserError

COLUMNS = ("id", "question", "reference", "answer", "score")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # a cell that begins so is a formula to a spreadsheet
MAX_CELL = 10_000_000  # characters


@dataclass(frozen=True)
class SheetRow:
    """An answer to score. It names no model: whoever scores is blind to it."""

    id: str  # of the held-out question
    question: str
    reference: str
    answer: str


@dataclass(frozen=True)
class PersonScore:
    """A person's score of an answer; None where the person left it empty."""

    id: str  # of the held-out question
    answer: str
    score: float | None  # from 0 (nothing is right) to 1 (right and complete)
    person: str  # the name of the sheet


def write(path: Path, rows: Iterable[SheetRow]) -> None:
    """Write a sheet with an empty column for the scores. No text of it can be a formula to a spreadsheet."""
    with jsonl.atomic_write(path) as file:
        file.write("\ufeff")  # without it some spreadsheets take the text for another encoding
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            [*map(_escape, (row.id, row.question, row.reference, row.answer)), ""] for row in rows
        )


def read_all(folder: Path) -> list[PersonScore]:
    """The scores of all sheets (*.csv) of a folder. Raises UserError for a bad line."""
    return [row for path in sorted(folder.glob("*.csv")) for row in read(path)]


def read(path: Path) -> list[PersonScore]:
    """The scores of a sheet. Raises UserError naming file and line for the first line that is wrong."""
    rows, first_lines = [], dict[tuple[str, str], int]()
    for line, cells in _lines(path):
        if len(cells) != len(COLUMNS):
            raise UserError(
                f"{path}, line {line}: has {len(cells)} cells; must have {len(COLUMNS)} between commas: "
                f"{', '.join(COLUMNS)}"
            )
        id, _, _, answer, score = map(_unescape, cells)
        row = PersonScore(id, answer, _parse_score(score, f"{path}, line {line}"), path.stem)
        first = first_lines.setdefault(key(id, answer), line)
        if first != line:
            raise UserError(
                f"{path}, line {line}: repeats line {first}; an answer has one score, delete a line"
            )
        rows.append(row)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows below the header that are not blank, each with its first line."""
    csv.field_size_limit(MAX_CELL)
    header, line = True, 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if header and tuple(cell.strip().lower() for cell in cells) != COLUMNS:
                    raise UserError(
                        f"{path}, line 1: must be the header {','.join(COLUMNS)}; save it as CSV with commas"
                    )
                if not header and any(cells):
                    yield line, cells
                header, line = False, reader.line_num + 1
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not in UTF-8; save the sheet as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: is no CSV ({error}); save the sheet as CSV again") from None
    if header:
        raise UserError(f"{path}: is empty; delete it, or make a new sheet with medqa sheet")


def _parse_score(text: str, where: str) -> float | None:
    if not text.strip():
        return None
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise UserError(
            f"{where}: score {text!r} must be a number from 0 to 1 with a decimal point, or empty"
        )
    return score


def key(id: str, answer: str) -> tuple[str, str]:
    """What two rows about the same answer share: spreadsheets change line ends and spaces, and drop NUL."""
    return id.strip(), " ".join(answer.replace("\0", "").split())


def mean_scores(scores: Sequence[PersonScore]) -> dict[tuple[str, str], float]:
    """The mean score of each answer over the people who scored it, by `key`."""
    each: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in scores:
        if row.score is not None:
            each[key(row.id, row.answer)].append(row.score)
    return {answer: fmean(values) for answer, values in each.items()}


def _escape(text: str) -> str:
    """A text that no spreadsheet reads as a formula, without the NUL that no CSV holds."""
    text = text.replace("\0", "")
    return f"'{text}" if text.startswith(FORMULA) else text


def _unescape(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
