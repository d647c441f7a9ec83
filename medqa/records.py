"""Every row that passes between stages: frozen records, kept as JSON lines, one a line, sorted by id.

A file is written beside its place and moved there when it is whole, so that what is in place is never half-written.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar

from medqa.params import UserError

KINDS = ("open", "exam", "literature")


@dataclass(frozen=True)
class Example:
    """A question and the answer to learn (data/sft.jsonl)."""

    id: str
    kind: str  # one of KINDS
    question: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question that candidates are written for (data/questions.jsonl). The policy never sees the reference."""

    id: str
    question: str
    reference: str


@dataclass(frozen=True)
class HeldOut:
    """A question that no training row shares, with what people preferred (data/heldout.jsonl)."""

    id: str
    kind: str
    question: str
    reference: str
    key_points: tuple[str, ...]  # empty where the source names none
    gold: str  # the right option's letter; empty where the question has no options
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Labelled:
    """A pair that people (or a stronger model) labelled (data/labelled.jsonl). It is never trained on."""

    id: str
    label_type: str  # easy, hard, length or human
    question: str
    reference: str  # empty where the source has none but the chosen answer itself
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Quarantined:
    """A source row that could not be used, and why (data/quarantine.jsonl)."""

    id: str
    file: str
    line: int  # from 1; of a JSON array, the row's number
    reason: str
    text: str  # the beginning of the row


@dataclass(frozen=True)
class Unseen:
    """A lesson that a judge from scratch never saw, and what it says of it (models/judge/unseen.jsonl)."""

    id: str
    text: str
    wanted: tuple[str, ...]  # the label it deserves, a criterion each
    told: tuple[str, ...]  # the label that the judge finds likeliest


@dataclass(frozen=True)
class Fate:
    """What became of a source row, once for each output it could have gone to (data/fates.jsonl)."""

    id: str  # output:source:file:line
    output: str  # sft, questions, held_out or labelled
    row: str  # the id that the source gives the row; of a kept row, its id in the output
    kind: str  # one of KINDS; empty where the row could not be read
    label_type: str  # empty for SFT rows, and where the row could not be read
    fate: str  # kept, quarantined, other_kind, leaked, nearly_leaked, duplicate or over_limit
    because: str  # the row beside a leaked or duplicate one, the reason of a quarantined one, what a kept one lost


@dataclass(frozen=True)
class Origin:
    """Where the rows of the SFT or the preference set came from (data/origins.jsonl)."""

    id: str  # sft or preference
    source: str  # embedded, hub or files
    name: str  # the repository, or the files
    commit: str  # of the repository; empty where there is none


@dataclass(frozen=True)
class Candidate:
    """One sampled answer (data/candidates.jsonl); its id is question_id#sample."""

    id: str
    question_id: str
    sample: int
    question: str
    reference: str
    text: str
    finish: str  # stop, length where the token limit cut it off, or failed where the model could not answer
    thinking: str = ""  # what a reasoning model wrote before its answer; neither judged nor measured nor trained on


@dataclass(frozen=True)
class Score:
    """What the judge says of an answer: 0 (worst) to 1 a criterion, or none with a reason."""

    accuracy: float | None
    completeness: float | None
    key_points: float | None
    score: float | None  # their weighted mean
    mass: float  # the least probability that the labels held together, over the criteria
    hidden: int  # characters of question, reference and answer that were cut out because they were too long
    unscored: str  # why there is no score; empty where there is one


@dataclass(frozen=True)
class Judged(Candidate, Score):
    """A candidate with its scores (data/judged.jsonl)."""


@dataclass(frozen=True)
class Pair:
    """Two candidates of one question, the better first (data/pairs.jsonl)."""

    id: str
    question: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True)
class Answer(Score):
    """A model's greedy answer to a held-out question with all that is measured of it (data/answers/NAME.jsonl)."""

    id: str
    kind: str
    text: str
    finish: str
    tokens: int
    key_point_recall: float
    token_f1: float
    rouge_l: float
    repetition: float  # share of its word trigrams that occur in it before
    choice: str  # the option read out of the answer; empty where the question has none or it could not be read
    correct: bool | None  # none where the question has no options
    chosen_logprob: float | None  # sum over the tokens of the answer that people chose; none where there is none
    rejected_logprob: float | None
    chosen_tokens: int | None  # how many that sum is over, its end-of-turn token included
    reference_logprob: float | None  # nats, as above, of the reference given as the answer; none where it is empty
    reference_tokens: int | None  # how many that sum is over
    judge: str  # the model that gave the scores
    thinking: str = ""  # as in Candidate; its tokens are among `tokens`


@dataclass(frozen=True)
class Agreed:
    """A labelled pair as the judge and the base model see it (data/agreement.jsonl)."""

    id: str
    label_type: str
    chosen_score: float | None
    rejected_score: float | None
    mass: float  # the lesser of the two sides
    chosen_words: int
    rejected_words: int
    chosen_logprob: float | None  # under the base model, as in Answer
    rejected_logprob: float | None
    with_reference: bool
    judge: str  # the model that gave the scores


@dataclass(frozen=True)
class Attacked:
    """An attempt to fool the judge beside the honest texts for the same question (data/attacks.jsonl)."""

    id: str  # labelled pair#attack
    attack: str  # its name in medqa/attacks/attacks.yaml
    kind: str  # key, verdict or padding
    text: str
    score: float | None
    plain_score: float | None  # of the poor answer that it pads or argues for; none where it uses no answer
    honest_score: float | None  # of the answer that people chose
    reference_score: float | None  # of the reference itself, given as an answer


R = TypeVar("R")
_encode = json.JSONEncoder(ensure_ascii=False).encode


def read(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a file, one by one. Raises UserError naming file and line for a torn or foreign row."""
    names = {field.name for field in fields(kind)}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or row.keys() != names:
                raise UserError(
                    f"{path}, line {number}: not a {kind.__name__} record (keys {', '.join(sorted(names))}); "
                    "rerun the stage that writes this file"
                )
            yield kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})


def read_some(path: Path, kind: type[R]) -> list[R]:
    """All records of a file. Raises UserError if there is none: no stage can do its work on nothing."""
    rows = list(read(path, kind))
    if not rows:
        raise UserError(f"{path} holds no row; look at what the stage that writes it left out (its file in metrics/)")
    return rows


def write(path: Path, rows: Iterable[Any], ordered: bool = False) -> int:
    """Write records sorted by id, all or nothing, without all of them in memory; returns how many.

    `ordered` rows come sorted and are written as they come. Raises ValueError for an id that comes twice, or too late.
    """
    last, total = None, 0
    # Records are flat: vars is asdict without its deep copy, which would take minutes for a million rows.
    lines = ((row.id, _encode(vars(row)) + "\n") for row in rows)
    with whole(path) as file, tempfile.TemporaryFile(dir=path.parent) as aside:
        for row_id, line in lines if ordered else _sorted(lines, aside):
            if last is not None and row_id <= last:
                raise ValueError(
                    f"{path}: the id {row_id} comes twice" if row_id == last else f"{row_id} comes too late"
                )
            file.write(line)
            last, total = row_id, total + 1
    return total


def _sorted(lines: Iterable[tuple[str, str]], aside: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Lines in the order of their ids; they wait in the file `aside`."""
    places = []
    for row_id, line in lines:
        places.append((row_id, aside.tell()))
        aside.write(line.encode("utf-8"))
    for row_id, at in sorted(places):
        aside.seek(at)
        yield row_id, aside.readline().decode("utf-8")


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics as JSON, floats rounded to 4 places so that a diff shows what moved and not noise.

    Raises ValueError for NaN, which every diff would count as changed.
    """
    with whole(path) as file:
        file.write(json.dumps(rounded(metrics), indent=2, allow_nan=False) + "\n")


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears at `path` only when it was written to its end and has reached the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def rounded(value: Any) -> Any:
    """Metrics with their floats rounded to 4 places, as they are stored."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) + 0.0 if isinstance(value, float) else value
