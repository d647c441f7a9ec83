"""How much each stage has to do: the rows that it will read, and the units that its time grows with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.runtime.data_section import DataParams
from medqa.runtime.measurements import Measurement, count_rows
from medqa.runtime.sections import Params

ATTACKS = 37  # of medqa/attacks/attacks.yaml, on each attacked pair
LIMITS = {
    "sft": "max_sft",
    "questions": "max_questions",
    "held_out": "max_held_out",
    "labelled": "max_labelled",
}
LIMITED = {*LIMITS.values(), "max_bad_share", "near_duplicate"}  # what leaves the number of source rows alone
# The count of the file that an option names. (`control` trains on the second of its two files of pairs.)
OPTIONS = {
    "examples": "sft",
    "questions": "questions",
    "candidates": "candidates",
    "judged": "candidates",
    "pairs": "pairs",
    "control_pairs": "pairs",
    "held_out": "held_out",
    "labelled": "labelled",
}
TASK_QUESTIONS = 830  # of a benchmark's task, the mean of the nine
CONTROLS = ("placebo", "oracle")
CHARS_PER_TOKEN = 4
CHECKPOINTING = 1.4  # times the time of a training step: its activations are computed twice

Counts = dict[
    str, float | None
]  # rows by name: sft, questions, held_out, labelled, candidates, pairs; None: unknown


@dataclass(frozen=True)
class FormerRun:
    """What the last run of this checkout left: the parameters in its dvc.lock, and metrics by file."""

    params: Mapping[str, Mapping[str, Any]]  # by stage, then by section
    metrics: Mapping[str, Mapping[str, Any]]  # of data and pairs
    measurements: Sequence[Measurement] = ()  # of all runs before


@dataclass(frozen=True)
class RowTokens:
    """Mean tokens of the rows of a file; the answer is the reference where rows have one."""

    question: float
    answer: float


def row_tokens(params: Params, former: FormerRun) -> dict[str, RowTokens]:
    """By file: as the last run counted on the same source, else half of the limits."""
    if _is_same_source(params, former):
        lengths = {name: former.metrics["data"].get(name, {}).get("mean_chars") for name in LIMITS}
        if all(lengths.values()):
            return {
                name: RowTokens(**{key: chars / CHARS_PER_TOKEN for key, chars in means.items()})
                for name, means in lengths.items()
            }
    half = RowTokens(params.sft.max_length / 4, params.sft.max_length / 4)
    return dict.fromkeys(LIMITS, half)


def _is_same_source(params: Params, former: FormerRun) -> bool:
    """Whether the last run read the same raw rows."""
    locked = former.params.get("data", {})
    source = _source(params.data.model_dump(mode="json"))
    return locked.get("corpus") == params.corpus and _source(locked.get("data", {})) == source


def predict(params: Params, former: FormerRun) -> Counts:
    """The rows of a run, from the limits and from what the last run made of the same source."""
    available = _available(params, former)
    counts: Counts = {}
    for name, limit in LIMITS.items():
        numbers = [
            number for number in (getattr(params.data, limit), available.get(name)) if number is not None
        ]
        counts[name] = min(numbers) if numbers else None
    questions = counts["questions"]
    if questions is not None:
        counts["candidates"] = questions * params.generate.n
        counts["pairs"] = questions * _pair_share(params, former)
    return {"candidates": None, "pairs": None, **counts}


def _available(params: Params, former: FormerRun) -> dict[str, int]:
    """Sound rows of each output before its limit, as far as is known before the stage `data` runs."""
    if _is_same_source(params, former):
        rows = {name: former.metrics["data"].get(name, {}).get("all", {}) for name in LIMITS}
        return {
            name: counted["kept"] + counted["over_limit"]
            for name, counted in rows.items()
            if "kept" in counted
        }
    return _rows_of_files(params.data, Path(params.corpus)) | _rows_of_runs(params, former.measurements)


def _source(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in LIMITED}


def _rows_of_runs(params: Params, measurements: Sequence[Measurement]) -> dict[str, int]:
    """Rows of earlier runs of `data` on the same source, where they were fewer than their limit."""
    rows: dict[str, int] = {}
    for run in measurements:
        section = run.params.get("data", {})
        is_same = run.params.get("corpus") == params.corpus and _source(section) == _source(
            params.data.model_dump(mode="json")
        )
        if run.stage == "data" and is_same:
            for name, key in LIMITS.items():
                if run.rows.get(name) and (section[key] is None or run.rows[name] < section[key]):
                    rows[name] = run.rows[name]
    return rows


def _rows_of_files(data: DataParams, corpus: Path) -> dict[str, int]:
    """The lines of the user's files: more than the sound rows, never fewer."""
    lines = {key: count_rows(corpus / file) for key, file in data.files().items() if not file.endswith(".gz")}
    train = [("sft", "sft.path"), ("questions", "preference.train")]
    rows = {name: lines[key] for name, key in train if lines.get(key)}
    held_out = [lines.get(f"preference.{split}", 0) for split in ("dev", "test")]
    return rows | ({"held_out": sum(held_out), "labelled": sum(held_out)} if any(held_out) else {})


def _pair_share(params: Params, former: FormerRun) -> float:
    """Pairs per question: as in the last run, else 1, which is the most.

    With more candidates fewer questions are without a pair: their share is taken to the power of the ratio.
    """
    made, n = former.metrics.get("pairs", {}), former.params.get("generate", {}).get("generate", {}).get("n")
    if not n or not made.get("questions") or params.pairs.policy == "reference":
        return 1.0
    return 1 - (1 - made["pairs"] / made["questions"]) ** (params.generate.n / n)


def counts_of(measurement: Measurement) -> Counts:
    """The rows that a measured run read."""
    return {OPTIONS[name]: rows for name, rows in measurement.rows.items() if name in OPTIONS}


def is_off(stage: str, params: Params) -> bool:
    """Whether a stage has nothing to do: it belongs to a control that is off, or no benchmark is named."""
    name, _, item = stage.partition("@")
    if name == "benchmark":
        return not params.benchmark.tasks
    return item in CONTROLS and not getattr(params.control, item)


def units(stage: str, params: Params, counts: Counts) -> float | None:
    """What the time of a stage is proportional to, once it has started; None if a count is not known.

    1 for stages whose rows these parameters do not change.
    """
    name, _, item = stage.partition("@")
    if name in ("sft", "dpo", "control"):
        rows = counts.get("sft" if name == "sft" else "pairs")
        section = params.sft if name == "sft" else params.dpo
        return (
            None
            if rows is None
            else rows * section.epochs * (CHECKPOINTING if section.activation_checkpointing else 1)
        )
    if name in ("generate", "judge", "pairs"):
        rows = counts.get("candidates")
        questions = counts.get("questions")
        return questions * params.generate.n if rows is None and questions is not None else rows
    if name == "evaluate":
        return counts.get("held_out")
    if name == "benchmark":
        return float(len(params.benchmark.tasks) * (params.benchmark.limit or TASK_QUESTIONS))
    if name == "agreement":
        labelled = counts.get("labelled")
        return (
            None
            if labelled is None
            else 2 * labelled + ATTACKS * min(params.agreement.attacked_pairs, labelled)
        )
    source = params.models.sources().get(item)
    return float(getattr(source, "steps", 1) * getattr(source, "batch_size", 1))
