"""Benchmark questions: the rows of a task, from a pinned file of the Hub or the user's own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medqa.benchmark import tasks
from medqa.benchmark.tasks import Task
from medqa.runtime.benchmark_section import HubFile, RowFile, TaskName
from medqa.runtime.errors import UserError
from medqa.sampling import draw_order
from medqa.sources import RawRow, read_rows


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A row of a task, in lm-eval's columns."""

    id: str  # the task, and the row's number in its file, from 1
    task: Task
    row: dict[str, Any]
    expected: str  # the right option

    def prompts(self) -> list[str]:
        """What a training prompt may repeat of it."""
        return self.task.render_prompts(self.row)


def read_all(
    names: Iterable[TaskName], sources: Mapping[TaskName, HubFile | RowFile], corpus: Path
) -> list[BenchmarkQuestion]:
    """The questions of tasks, one task after the other. Raises as `read`."""
    return [question for name in names for question in read(tasks.load(name), sources[name], corpus)]


def read(task: Task, source: HubFile | RowFile, corpus: Path) -> list[BenchmarkQuestion]:
    """The questions of a task in the order of its file.

    Raises UserError if the file cannot be had, or if a row of it lacks a column or the right option.
    """
    path = _local_file(task.name, source, corpus)
    return [_question(task, path, number, raw) for number, raw in enumerate(read_rows(path), 1)]


def draw(questions: Sequence[BenchmarkQuestion], limit: int | None, seed: int) -> list[BenchmarkQuestion]:
    """The questions with at most `limit` per task, drawn by the seed; None draws all."""
    ids: dict[str, list[str]] = {}
    for question in questions:
        ids.setdefault(question.task.name, []).append(question.id)
    drawn = {id for each in ids.values() for id in sorted(each, key=partial(draw_order, seed))[:limit]}
    return [question for question in questions if question.id in drawn]


def _local_file(name: str, source: HubFile | RowFile, corpus: Path) -> Path:
    if isinstance(source, RowFile):
        return corpus / source.path
    from medqa import hub

    key = f"benchmark.sources.{name}.revision"
    _, (path, *_) = hub.fetch_dataset(source.repo, source.revision, [source.file], key)
    return path


def _question(task: Task, path: Path, number: int, raw: RawRow) -> BenchmarkQuestion:
    problem = f"{path}, row {number}"
    if raw.error or not isinstance(raw.row, dict):
        raise UserError(f"{problem}: {raw.error or 'is no row with columns'}; repair the file")
    row = {name: _value(raw.row, name, task.aliases) for name in task.columns}
    if lacking := [name for name, value in row.items() if value is None]:
        columns = f"{task.name} needs the columns {', '.join(task.columns)}"
        raise UserError(f"{problem} has no {', '.join(lacking)}: {columns}")
    target, options = row[task.target], task.options
    if target in options:
        expected = target
    elif type(target) is int and 0 <= target < len(options):
        expected = options[target]
    else:
        allowed = f"an option ({', '.join(options)}) or its number from 0"
        raise UserError(f"{problem}: {task.target} = {target!r} must be {allowed}; take rows with answers")
    return BenchmarkQuestion(f"{task.name}:{number:06}", task, row, expected)


def _value(row: Mapping[str, Any], name: str, aliases: Mapping[str, str]) -> Any:
    """The value of a column, or of its alias where the row lacks it; None without either."""
    if name in row:
        return row[name]
    value: Any = row if name in aliases else {}
    for part in aliases.get(name, name).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
