"""The data stage: read UltraMedical's two formats, keep what is sound, and let no held-out prompt into
training.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medqa.data.decontamination import Decontamination
from medqa.data.raw_rows import raw_rows
from medqa.data.row_table import RowTable, TableRow, digest
from medqa.data.selection import OUTPUTS, Selection
from medqa.records import Example, HeldOut, Labelled, Provenance, Quarantined, Question, RowAudit
from medqa.runtime.errors import UserError
from medqa.runtime.sections import DataParams
from medqa.sources import RawRow, foreign_formats, ultramedical
from medqa.sources.ultramedical import ParsedRow
from medqa.text import normalize

LEFT_OUT = ("quarantined", "other_kind", "contaminated", "near_duplicate", "duplicate", "over_limit")


@dataclass
class MedicalData:
    """What `load_medical_data` returns: the rows of the data stage's files, each sorted by id.

    Only the quarantine is in memory. The others are sequences that read a row when it is asked for.
    """

    sft: Sequence[Example] = ()
    questions: Sequence[Question] = ()
    held_out: Sequence[HeldOut] = ()
    labelled: Sequence[Labelled] = ()
    quarantine: list[Quarantined] = field(default_factory=list)
    audit: Sequence[RowAudit] = ()
    provenance: list[Provenance] = field(default_factory=list)


def load_medical_data(corpus: Path, params: DataParams, seed: int) -> MedicalData:
    """Read, validate, deduplicate, split by prompt and decontaminate the SFT and the preference set.

    Whatever prompt stands in dev or test leaves the questions and the SFT rows, under whatever case,
    punctuation or order of options, and so do its near-duplicates. Which rows are kept depends on the rows
    and `seed`, not on their order. Raises UserError if a source cannot be read or more than `max_bad_share`
    of it is bad.
    """
    shelf, leaks = RowTable(), Decontamination(params.near_duplicate)
    sources, provenance = raw_rows(corpus, params.sft, params.preference, seed)
    data = MedicalData(provenance=provenance)
    for name, some in sources.items():
        _shelve(name, some, params, shelf, data, leaks)
    held: dict[bytes, str] = {}
    for row in shelf.sound(("dev", "test")):
        held.setdefault(row.key, row.place)
        leaks.hold(shelf.get(row).key)
    choose = Selection(seed, shelf, held, leaks)
    choose("held_out", params.held_out_kinds, params.max_held_out)
    # A pair is a row's own: a prompt may recur with other answers.
    choose("labelled", ultramedical.KINDS, params.max_labelled, answers=True)
    choose("questions", params.question_kinds, params.max_questions)
    choose("sft", params.sft_kinds, params.max_sft, answers=True)
    for name, make in {
        "held_out": _held_out,
        "labelled": _labelled,
        "questions": _question,
        "sft": _example,
    }.items():
        setattr(data, name, shelf.records(name, make))
        if not getattr(data, name) and name != "labelled":
            raise UserError(
                f"the data leave no row for {name}; loosen data.*_kinds or give more rows in params.yaml"
            )
    data.audit = shelf.audit()
    return data


def counts(audit: Iterable[RowAudit]) -> dict[str, Any]:
    """How many rows were read, kept, and left out for each reason: for each output, in all, by kind and by
    label type (`unknown` where the row could not be read). Every group adds up: read is the sum of all the
    others. Where kept rows have lost something, `remarks` says what, and how many.
    """
    tally, remarks = Counter(), {output: Counter() for output in OUTPUTS}
    for row in audit:
        tally[row.output, row.kind or "unknown", row.label_type or "unknown", row.outcome] += 1
        if row.outcome == "kept" and row.reason:
            remarks[row.output].update(row.reason.replace(" ", "_").split(";_"))
    told: dict[str, Any] = {}
    for output in OUTPUTS:
        mine = {parts[1:]: total for parts, total in tally.items() if parts[0] == output}
        # The SFT set has no label types.
        labels = sorted({label for _, label, _ in mine}) if output != "sft" else ()
        told[output] = {
            "all": _group(mine),
            "kinds": {
                k: _group({p: n for p, n in mine.items() if p[0] == k}) for k in sorted({k for k, *_ in mine})
            },
            "label_types": {k: _group({p: n for p, n in mine.items() if p[1] == k}) for k in labels},
        } | ({"remarks": dict(sorted(remarks[output].items()))} if remarks[output] else {})
    return told


def _group(tally: dict[tuple[str, str, str], int]) -> dict[str, int]:
    by_fate = Counter()
    for (_, _, fate), total in tally.items():
        by_fate[fate] += total
    return {"read": by_fate.total(), **{fate: by_fate[fate] for fate in (*LEFT_OUT, "kept")}}


def _example(row_id: str, row: ParsedRow) -> Example:
    return Example(row_id, row.kind, row.prompt, row.chosen)


def _question(row_id: str, row: ParsedRow) -> Question:
    return Question(row_id, row.prompt, _golden(row) or row.chosen)


def _labelled(row_id: str, row: ParsedRow) -> Labelled:
    return Labelled(row_id, row.label_type, row.prompt, _golden(row), row.chosen, row.rejected)


def _held_out(row_id: str, row: ParsedRow) -> HeldOut:
    reference = _golden(row) or row.chosen
    return HeldOut(
        row_id, row.kind, row.prompt, reference, row.key_points, row.gold, row.chosen, row.rejected
    )


def _golden(row: ParsedRow) -> str:
    """The reference that the source itself gives: a golden text, or the right option; '' if there is none."""
    if row.gold:
        return f"The answer is {row.gold}: {ultramedical.options(row.prompt).get(row.gold, row.gold)}."
    return row.golden_text


def _shelve(
    name: str,
    sources: Iterator[RawRow],
    params: DataParams,
    shelf: RowTable,
    data: MedicalData,
    leaks: Decontamination,
) -> None:
    """Put a source's rows on the shelf. Raises UserError if too many are bad."""
    total, reasons, firsts = 0, Counter(), {}
    for source in sources:
        total += 1
        try:
            asked = _parsed(name, source)
        except ValueError as error:
            row = TableRow(name, source.file, source.line, reason=str(error))
            shelf.put(row, None)
            reasons[row.reason] += 1
            firsts.setdefault(row.reason, source)
            data.quarantine.append(Quarantined(row.place, row.file, row.line, row.reason, _shown(source.row)))
            continue
        said = digest(normalize(asked.chosen)) if name == "sft" else digest(asked.chosen, asked.rejected)
        key = digest(asked.key)
        if shelf.new(key):
            leaks.count(asked.key)
        row = TableRow(
            name,
            source.file,
            source.line,
            asked.id,
            asked.kind,
            asked.label_type,
            key,
            said,
            "",
            asked.remark,
        )
        shelf.put(row, asked)
    bad = reasons.total()
    if bad > params.max_bad_share * total:
        commonest = "; ".join(f"{reason} ({times})" for reason, times in reasons.most_common(3))
        raise UserError(
            f"{bad} of {total} rows of {name} are bad, over data.max_bad_share = {params.max_bad_share}: {commonest}"
            + _shape(name, firsts[reasons.most_common(1)[0][0]])
        )


def _shape(name: str, source: RawRow) -> str:
    """What a bad row is if it is of another format, as the end of a sentence; '' if it is not."""
    wanted = "UltraMedical" if name == "sft" else "UltraMedical-Preference"
    shape = foreign_formats.torn(source.torn) if source.torn else foreign_formats.rows(source.row, wanted)
    return f"; {source.file} {shape}" if shape else ""


def _parsed(name: str, source: RawRow) -> ParsedRow:
    if source.torn:
        raise ValueError(source.torn)
    return ultramedical.sft(source.row) if name == "sft" else ultramedical.preference(source.row)


def _shown(row: Any) -> str:
    """The beginning of a bad row, as text that can be written."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
    return text[:200].encode("utf-8", "replace").decode("utf-8")
