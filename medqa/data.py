"""The data stage: read UltraMedical's two formats, keep what is sound, and let no held-out prompt into training."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from medqa import embedded, ultramedical
from medqa.params import Float, Int, Section, UserError
from medqa.records import Example, HeldOut, Labelled, Quarantined, Question
from medqa.text import normal
from medqa.ultramedical import Asked, Source

Kinds = Annotated[tuple[Literal["open", "exam", "literature"], ...], Field(min_length=1)]
Limit = Annotated[Int, Field(ge=1)] | None
SPLITS = ("train", "dev", "test")


class Embedded(Section):
    """The corpus that comes with the project."""

    source: Literal["embedded"]


class Hub(Section):
    """A data set of the Hub: for preferences, files whose names begin with train, dev and test."""

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(min_length=1)


class SftFile(Section):
    """A file of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    path: str


class PreferenceFiles(Section):
    """Three files of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    train: str
    dev: str
    test: str


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

    def files(self) -> dict[str, str]:
        """The files that it names, by key, relative to `corpus`."""
        files = {"sft.path": self.sft.path} if isinstance(self.sft, SftFile) else {}
        if isinstance(self.preference, PreferenceFiles):
            files |= {f"preference.{split}": getattr(self.preference, split) for split in SPLITS}
        return files


@dataclass
class MedicalData:
    """What `load_medical_data` returns: the rows of the data stage's files, and the counts of all that was read."""

    sft: list[Example] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    held_out: list[HeldOut] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


def load_medical_data(corpus: Path, params: Params, seed: int) -> MedicalData:
    """Read, validate, deduplicate, split by prompt and decontaminate the SFT and the preference set.

    Whatever prompt stands in dev or test leaves the questions and the SFT rows, under whatever case, punctuation or
    order of options. Which rows are kept depends on the rows and `seed`, not on their order. Raises UserError
    if a source cannot be read or more than `max_bad_share` of it is bad.
    """
    data = MedicalData()
    sources, commits = _sources(corpus, params, seed)
    rows = {
        name: _sound(name, some, ultramedical.sft if name == "sft" else ultramedical.preference, params, data)
        for name, some in sources.items()
    }
    held = rows["dev"] + rows["test"]
    held_keys = {row.key for row in held}
    take = _Take(seed, data.metrics)

    picked = take("held_out", held, params.held_out_kinds, params.max_held_out, by=lambda row: row.key)
    data.held_out = [_held_out(row_id, row) for row_id, row in picked]
    # A pair is a row's own: a prompt may recur with other answers.
    picked = take("labelled", held, None, params.max_labelled, by=lambda row: (row.key, row.chosen, row.rejected))
    data.labelled = [
        Labelled(row_id, row.label_type, row.prompt, _golden(row), row.chosen, row.rejected) for row_id, row in picked
    ]
    picked = take(
        "questions", rows["train"], params.question_kinds, params.max_questions, lambda row: row.key, held_keys
    )
    data.questions = [Question(row_id, row.prompt, _golden(row) or row.chosen) for row_id, row in picked]
    picked = take(
        "sft", rows["sft"], params.sft_kinds, params.max_sft, lambda row: (row.key, normal(row.chosen)), held_keys
    )
    data.sft = [Example(row_id, row.kind, row.prompt, row.chosen) for row_id, row in picked]
    data.metrics |= commits
    for name in ("sft", "questions", "held_out"):
        if not getattr(data, name):
            raise UserError(f"the data leave no row for {name}; loosen data.*_kinds or give more rows in params.yaml")
    return data


class _Take:
    """Picks the rows of one output, and counts every row it leaves out under the first reason that holds."""

    def __init__(self, seed: int, metrics: dict[str, Any]):
        self.seed, self.metrics = seed, metrics

    def __call__(
        self,
        name: str,
        rows: Iterable[Asked],
        kinds: tuple[str, ...] | None,
        limit: int | None,
        by: Callable[[Asked], Any],
        held: set[str] = frozenset(),
    ) -> list[tuple[str, Asked]]:
        counts, first = Counter(), {}
        # Sorted, so that of the rows of one prompt the same is kept wherever they stand.
        for row in sorted(rows):
            counts["from"] += 1
            if kinds is not None and row.kind not in kinds:
                counts["other_kind"] += 1
            elif row.key in held:
                counts["leaked"] += 1
            elif by(row) in first:
                counts["duplicate"] += 1
            else:
                first[by(row)] = row
        named = _unique(first.values())
        if limit is not None and len(named) > limit:
            counts["over_limit"] = len(named) - limit
            named = sorted(named, key=lambda item: hashlib.sha256(f"{self.seed} {item[0]}".encode()).digest())[:limit]
        self.metrics[name] = {
            **{reason: counts[reason] for reason in ("from", "other_kind", "leaked", "duplicate", "over_limit")},
            "kept": len(named),
            **{f"kept_{kind}": total for kind, total in sorted(Counter(row.kind for _, row in named).items())},
        }
        return named


def _unique(rows: Iterable[Asked]) -> list[tuple[str, Asked]]:
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.id] += 1
        named.append((row.id if seen[row.id] == 1 else f"{row.id}~{seen[row.id]}", row))
    return named


def _held_out(row_id: str, row: Asked) -> HeldOut:
    reference = _golden(row) or row.chosen
    return HeldOut(row_id, row.kind, row.prompt, reference, row.key_points, row.gold, row.chosen, row.rejected)


def _golden(row: Asked) -> str:
    """The reference that the source itself gives: a golden text, or the right option; '' if there is none."""
    if row.gold:
        return f"The answer is {row.gold}: {ultramedical.options(row.prompt).get(row.gold, row.gold)}."
    return row.golden_text


def _sound(
    name: str, rows: Iterator[Source], parse: Callable[[Any], Asked], params: Params, data: MedicalData
) -> list[Asked]:
    good, read, reasons = [], 0, Counter()
    for source in rows:
        read += 1
        try:
            good.append(parse(source.row) if source.row is not None else _no_json())
        except ValueError as error:
            reasons[str(error)] += 1
            where = f"{name}:{source.file}:{source.line:09d}"
            data.quarantine.append(Quarantined(where, source.file, source.line, str(error), str(source.row)[:200]))
    bad = reasons.total()
    if read == 0:
        raise UserError(f"the source of {name} holds no row; see data in params.yaml")
    if bad > params.max_bad_share * read:
        commonest = "; ".join(f"{reason} ({times})" for reason, times in reasons.most_common(3))
        raise UserError(
            f"{bad} of {read} rows of {name} are bad, over data.max_bad_share = {params.max_bad_share}: {commonest}"
        )
    data.metrics[f"source_{name}"] = {"read": read, "kept": len(good), "quarantined": bad}
    return good


def _no_json() -> Asked:
    raise ValueError("torn JSON or invalid UTF-8")


def _sources(corpus: Path, params: Params, seed: int) -> tuple[dict[str, Iterator[Source]], dict[str, str]]:
    commits: dict[str, str] = {}
    topics = embedded.topics(corpus) if "embedded" in (params.sft.source, params.preference.source) else []
    match params.sft:
        case Hub(repo=repo, revision=revision):
            commits["sft_commit"], paths = _hub(repo, revision)
            sources = {"sft": _files(paths)}
        case SftFile(path=path):
            sources = {"sft": ultramedical.read(corpus / path)}
        case _:
            sources = {"sft": _made(embedded.sft_rows(topics, seed))}
    match params.preference:
        case Hub(repo=repo, revision=revision):
            commits["preference_commit"], paths = _hub(repo, revision)
            sources |= {split: _files([path for path in paths if path.name.startswith(split)]) for split in SPLITS}
        case PreferenceFiles() as files:
            sources |= {split: ultramedical.read(corpus / getattr(files, split)) for split in SPLITS}
        case _:
            made = embedded.preference_rows(topics, seed)
            sources |= {split: _made(made[split]) for split in SPLITS}
    return sources, commits


def _hub(repo: str, revision: str) -> tuple[str, list[Path]]:
    from medqa import hub

    return hub.fetch_dataset(repo, revision, ["*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz", "*.parquet"])


def _files(paths: list[Path]) -> Iterator[Source]:
    return (source for path in paths for source in ultramedical.read(path))


def _made(rows: Iterable[dict[str, Any]]) -> Iterator[Source]:
    return (Source("embedded", line, row) for line, row in zip(count(1), rows, strict=False))
