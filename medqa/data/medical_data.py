"""The data stage: read UltraMedical's two formats, keep sound rows, and no held-out prompt in training."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medqa.data.decontamination import Decontamination
from medqa.data.raw_rows import raw_rows
from medqa.data.row_groups import row_groups
from medqa.data.row_table import RowTable, TableRow, digest
from medqa.data.selection import Selection
from medqa.records import KINDS, Example, HeldOut, Labelled, Provenance, Quarantined, Question, RowAudit
from medqa.runtime.data_section import HubRows
from medqa.runtime.errors import UserError
from medqa.runtime.sections import DataParams
from medqa.sources import RawRow, foreign_formats
from medqa.sources.labellers import labeller_of_repo
from medqa.sources.options import list_options, prompt_key
from medqa.sources.raw_row import INVALID_UTF8, excerpt
from medqa.sources.ultramedical import ParsedRow, parse_preference, parse_sft
from medqa.text import normalize


@dataclass
class MedicalData:
    """The rows of the data stage's files, each sorted by id.

    Only the quarantine is in memory. The others are sequences that read a row when it is needed.
    """

    sft: Sequence[Example]
    questions: Sequence[Question]
    held_out: Sequence[HeldOut]
    labelled: Sequence[Labelled]
    audit: Sequence[RowAudit]
    quarantine: list[Quarantined]
    provenance: list[Provenance]


def load_medical_data(
    corpus: Path, params: DataParams, seed: int, benchmark_prompts: Mapping[str, Sequence[str]] | None = None
) -> MedicalData:
    """Read, validate, deduplicate, split by prompt and decontaminate the SFT and the preference set.

    A prompt of dev or test leaves the questions and the SFT rows, whatever its case, punctuation or order of
    options, and so do its near-duplicates; likewise `benchmark_prompts`, texts by the id of a question. Which
    rows are kept depends on the rows and `seed`, not on their order. Raises UserError if a source cannot be
    read, too much of it is bad, or no row is left.
    """
    sources, provenance = raw_rows(corpus, params.sft, params.preference, seed)
    reader = _Reader(params.near_duplicate)
    for name, rows in sources.items():
        reader.read(name, rows, params.max_bad_share)
    benchmarks = [(id, prompt_key(text)) for id, texts in (benchmark_prompts or {}).items() for text in texts]
    for _, key in benchmarks:
        reader.decontamination.count_words(key)
    selection = Selection(seed, reader.table, reader.decontamination, benchmarks)
    selection.select("held_out", params.held_out_kinds, params.max_held_out)
    # A pair is a row of its own: a prompt may come again with other answers.
    selection.select("labelled", KINDS, params.max_labelled, by_answer=True)
    selection.select("questions", params.question_kinds, params.max_questions)
    selection.select("sft", params.sft_kinds, params.max_sft, by_answer=True)
    table = reader.table
    repo = params.preference.repo if isinstance(params.preference, HubRows) else ""
    data = MedicalData(
        sft=table.records("sft", _example),
        questions=table.records("questions", _question),
        held_out=table.records("held_out", partial(_held_out, repo)),
        labelled=table.records("labelled", partial(_labelled, repo)),
        audit=table.audit(),
        quarantine=reader.quarantine,
        provenance=provenance,
    )
    for output in ("held_out", "questions", "sft"):
        if not getattr(data, output):
            advice = "loosen data.*_kinds or give more rows in params.yaml"
            raise UserError(f"the data leave no row for {output}; {advice}")
    return data


@dataclass
class _Reader:
    """Parses raw rows into the table, and counts the words of their prompts."""

    near_duplicate: float | None
    table: RowTable = field(default_factory=RowTable)
    quarantine: list[Quarantined] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.decontamination = Decontamination(self.near_duplicate)

    def read(self, source: str, rows: Iterator[RawRow], max_bad_share: float) -> None:
        """Read the rows of a source. Raises UserError if too many are bad."""
        total, examples = 0, dict[str, RawRow]()
        reasons: Counter[str] = Counter()
        for raw in rows:
            total += 1
            try:
                row = _parse(source, raw)
            except ValueError as error:
                self._add_bad(source, raw, str(error))
                reasons[str(error)] += 1
                examples.setdefault(str(error), raw)
            else:
                self._add(source, raw, row)
        bad = reasons.total()
        if bad > max_bad_share * total:
            commonest = "; ".join(f"{reason} ({times})" for reason, times in reasons.most_common(3))
            problem = f"{bad} of {total} rows of {source} are bad, over data.max_bad_share = {max_bad_share}"
            description = _describe(source, examples[reasons.most_common(1)[0][0]])
            raise UserError(f"{problem}: {commonest}{description}")

    def _add(self, source: str, raw: RawRow, row: ParsedRow) -> None:
        prompt = digest(row.key)
        answers = digest(normalize(row.chosen)) if source == "sft" else digest(row.chosen, row.rejected)
        if self.table.insert("prompt", prompt, None, or_else="IGNORE"):
            self.decontamination.count_words(row.key)
        location = (source, raw.file, raw.line)
        self.table.add(
            TableRow(*location, row.id, row.kind, row.label_type, prompt, answers, remark=row.remark), row
        )

    def _add_bad(self, source: str, raw: RawRow, reason: str) -> None:
        row = TableRow(source, raw.file, raw.line, reason=reason)
        self.table.add(row, None)
        text = raw.row if isinstance(raw.row, str) else json.dumps(raw.row, ensure_ascii=False, default=str)
        self.quarantine.append(Quarantined(row.location, row.file, row.line, reason, excerpt(text)))


def _parse(source: str, raw: RawRow) -> ParsedRow:
    """Raises ValueError with the reason if the row cannot be used."""
    if raw.error:
        raise ValueError(raw.error)
    return parse_sft(raw.row) if source == "sft" else parse_preference(raw.row)


def _describe(source: str, raw: RawRow) -> str:
    """What a bad row is if it is of another format, as the end of a sentence; '' if it is not."""
    if raw.error:
        description = "is not in UTF-8: save it as UTF-8" if raw.error == INVALID_UTF8 else ""
    else:
        expected = "UltraMedical" if source == "sft" else "UltraMedical-Preference"
        description = foreign_formats.describe_row(raw.row, expected)
    return f"; {raw.file} {description}" if description else ""


def _example(row_id: str, row: ParsedRow) -> Example:
    return Example(row_id, row.kind, row.prompt, row.chosen)


def _question(row_id: str, row: ParsedRow) -> Question:
    return Question(row_id, row.prompt, _reference(row) or row.chosen, row.key_points)


def _labelled(repo: str, row_id: str, row: ParsedRow) -> Labelled:
    reference, answers = _reference(row), (row.chosen, row.rejected)
    values = (row_id, row.label_type, row.prompt, reference, *answers, row.key_points)
    return Labelled(*values, **_origin(repo, row, reference))


def _held_out(repo: str, row_id: str, row: ParsedRow) -> HeldOut:
    reference, answers = _reference(row) or row.chosen, (row.chosen, row.rejected)
    values = (row_id, row.kind, row.prompt, reference, row.key_points, row.gold, *answers)
    return HeldOut(*values, **_origin(repo, row, reference))


def _origin(repo: str, row: ParsedRow, reference: str) -> dict[str, Any]:
    """Who labelled a preference row, which came from this data set of the Hub if any, and its groups."""
    labelled_by = row.labelled_by or labeller_of_repo(repo, row.label_type)
    return {"labelled_by": labelled_by, "groups": row_groups(row, reference)}


def _reference(row: ParsedRow) -> str:
    """The reference that the source itself gives: a golden text, or the right option; '' if there is none."""
    if row.gold:
        return f"The answer is {row.gold}: {list_options(row.prompt).get(row.gold, row.gold)}."
    return row.golden_text
