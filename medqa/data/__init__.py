"""The data stage: read UltraMedical's two formats, keep what is sound, and let no held-out prompt into training."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from medqa.data.choosing import OUTPUTS, Chooser
from medqa.data.leaks import Leaks
from medqa.data.origins import SPLITS, Embedded, Hub, PreferenceFiles, SftFile, raw_rows
from medqa.data.shelf import Row, Shelf, digest
from medqa.params import Float, Int, Section, UserError
from medqa.records import Example, Fate, HeldOut, Labelled, Origin, Quarantined, Question
from medqa.sources import Source, foreign, ultramedical
from medqa.sources.ultramedical import Asked
from medqa.text import normal

Kinds = Annotated[tuple[Literal["open", "exam", "literature"], ...], Field(min_length=1)]
Limit = Annotated[Int, Field(ge=1)] | None
LEFT_OUT = ("quarantined", "other_kind", "leaked", "nearly_leaked", "duplicate", "over_limit")


class Params(Section):
    """Section `data` of params.yaml. A limit of null keeps all."""

    sft: Annotated[Embedded | Hub | SftFile, Field(discriminator="source")]
    preference: Annotated[Embedded | Hub | PreferenceFiles, Field(discriminator="source")]
    sft_kinds: Kinds
    question_kinds: Kinds
    held_out_kinds: Kinds
    max_sft: Limit
    max_questions: Limit
    max_held_out: Limit
    max_labelled: Limit
    max_bad_share: Float = Field(ge=0, le=1)
    near_duplicate: Annotated[Float, Field(gt=0, le=1)] | None

    def files(self) -> dict[str, str]:
        """The files that it names, by key, relative to `corpus`."""
        files = {"sft.path": self.sft.path} if isinstance(self.sft, SftFile) else {}
        if isinstance(self.preference, PreferenceFiles):
            files |= {f"preference.{split}": getattr(self.preference, split) for split in SPLITS}
        return files


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
    fates: Sequence[Fate] = ()
    origins: list[Origin] = field(default_factory=list)


def load_medical_data(corpus: Path, params: Params, seed: int) -> MedicalData:
    """Read, validate, deduplicate, split by prompt and decontaminate the SFT and the preference set.

    Whatever prompt stands in dev or test leaves the questions and the SFT rows, under whatever case, punctuation or
    order of options, and so do its near-duplicates. Which rows are kept depends on the rows and `seed`, not on their
    order. Raises UserError if a source cannot be read or more than `max_bad_share` of it is bad.
    """
    shelf, leaks = Shelf(), Leaks(params.near_duplicate)
    sources, origins = raw_rows(corpus, params.sft, params.preference, seed)
    data = MedicalData(origins=origins)
    for name, some in sources.items():
        _shelve(name, some, params, shelf, data, leaks)
    held: dict[bytes, str] = {}
    for row in shelf.sound(("dev", "test")):
        held.setdefault(row.key, row.place)
        leaks.hold(shelf.get(row).key)
    choose = Chooser(seed, shelf, held, leaks)
    choose("held_out", params.held_out_kinds, params.max_held_out)
    # A pair is a row's own: a prompt may recur with other answers.
    choose("labelled", ultramedical.KINDS, params.max_labelled, answers=True)
    choose("questions", params.question_kinds, params.max_questions)
    choose("sft", params.sft_kinds, params.max_sft, answers=True)
    for name, make in {"held_out": _held_out, "labelled": _labelled, "questions": _question, "sft": _example}.items():
        setattr(data, name, shelf.records(name, make))
        if not getattr(data, name) and name != "labelled":
            raise UserError(f"the data leave no row for {name}; loosen data.*_kinds or give more rows in params.yaml")
    data.fates = shelf.fates()
    return data


def counts(fates: Iterable[Fate]) -> dict[str, Any]:
    """How many rows were read, kept, and left out for each reason: for each output, in all, by kind and by label type
    (`unknown` where the row could not be read). Every group adds up: read is the sum of all the others. Where kept
    rows have lost something, `remarks` says what, and how many.
    """
    tally, remarks = Counter(), {output: Counter() for output in OUTPUTS}
    for row in fates:
        tally[row.output, row.kind or "unknown", row.label_type or "unknown", row.fate] += 1
        if row.fate == "kept" and row.because:
            remarks[row.output].update(row.because.replace(" ", "_").split(";_"))
    told: dict[str, Any] = {}
    for output in OUTPUTS:
        mine = {parts[1:]: total for parts, total in tally.items() if parts[0] == output}
        # The SFT set has no label types.
        labels = sorted({label for _, label, _ in mine}) if output != "sft" else ()
        told[output] = {
            "all": _group(mine),
            "kinds": {k: _group({p: n for p, n in mine.items() if p[0] == k}) for k in sorted({k for k, *_ in mine})},
            "label_types": {k: _group({p: n for p, n in mine.items() if p[1] == k}) for k in labels},
        } | ({"remarks": dict(sorted(remarks[output].items()))} if remarks[output] else {})
    return told


def _group(tally: dict[tuple[str, str, str], int]) -> dict[str, int]:
    by_fate = Counter()
    for (_, _, fate), total in tally.items():
        by_fate[fate] += total
    return {"read": by_fate.total(), **{fate: by_fate[fate] for fate in (*LEFT_OUT, "kept")}}


def _example(row_id: str, row: Asked) -> Example:
    return Example(row_id, row.kind, row.prompt, row.chosen)


def _question(row_id: str, row: Asked) -> Question:
    return Question(row_id, row.prompt, _golden(row) or row.chosen)


def _labelled(row_id: str, row: Asked) -> Labelled:
    return Labelled(row_id, row.label_type, row.prompt, _golden(row), row.chosen, row.rejected)


def _held_out(row_id: str, row: Asked) -> HeldOut:
    reference = _golden(row) or row.chosen
    return HeldOut(row_id, row.kind, row.prompt, reference, row.key_points, row.gold, row.chosen, row.rejected)


def _golden(row: Asked) -> str:
    """The reference that the source itself gives: a golden text, or the right option; '' if there is none."""
    if row.gold:
        return f"The answer is {row.gold}: {ultramedical.options(row.prompt).get(row.gold, row.gold)}."
    return row.golden_text


def _shelve(
    name: str, sources: Iterator[Source], params: Params, shelf: Shelf, data: MedicalData, leaks: Leaks
) -> None:
    """Put a source's rows on the shelf. Raises UserError if too many are bad."""
    total, reasons, firsts = 0, Counter(), {}
    for source in sources:
        total += 1
        try:
            asked = _parsed(name, source)
        except ValueError as error:
            row = Row(name, source.file, source.line, reason=str(error))
            shelf.put(row, None)
            reasons[row.reason] += 1
            firsts.setdefault(row.reason, source)
            data.quarantine.append(Quarantined(row.place, row.file, row.line, row.reason, _shown(source.row)))
            continue
        said = digest(normal(asked.chosen)) if name == "sft" else digest(asked.chosen, asked.rejected)
        key = digest(asked.key)
        if shelf.new(key):
            leaks.count(asked.key)
        row = Row(name, source.file, source.line, asked.id, asked.kind, asked.label_type, key, said, "", asked.remark)
        shelf.put(row, asked)
    bad = reasons.total()
    if bad > params.max_bad_share * total:
        commonest = "; ".join(f"{reason} ({times})" for reason, times in reasons.most_common(3))
        raise UserError(
            f"{bad} of {total} rows of {name} are bad, over data.max_bad_share = {params.max_bad_share}: {commonest}"
            + _shape(name, firsts[reasons.most_common(1)[0][0]])
        )


def _shape(name: str, source: Source) -> str:
    """What a bad row is if it is of another format, as the end of a sentence; '' if it is not."""
    wanted = "UltraMedical" if name == "sft" else "UltraMedical-Preference"
    shape = foreign.torn(source.torn) if source.torn else foreign.rows(source.row, wanted)
    return f"; {source.file} {shape}" if shape else ""


def _parsed(name: str, source: Source) -> Asked:
    if source.torn:
        raise ValueError(source.torn)
    return ultramedical.sft(source.row) if name == "sft" else ultramedical.preference(source.row)


def _shown(row: Any) -> str:
    """The beginning of a bad row, as text that can be written."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
    return text[:200].encode("utf-8", "replace").decode("utf-8")
