"""The memory of a stage's own process does not grow with its rows: a window of them is in it at a time."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import FakeEngine, embed
from fake_run import report_params, write_run

import stages.compare
import stages.evaluate
from medqa import compare, engines, evaluate, jsonl, metrics, report
from medqa.engines import base
from medqa.engines.cached import CachedEngine
from medqa.records import Answer, Candidate, HeldOut, Judged, Question
from medqa.report import RunPaths
from medqa.runtime import row_cache
from medqa.runtime.params import read_params
from stages import generate, judge, pairs

ROOT = Path(__file__).parent.parent
TEXT = "Gout causes pain, and rest helps. " * 8
FEW, MANY = 1_000, 3_000  # rows
PARAMS = report_params(max_rows=20)
FEWER = {"bootstrap_samples": 100}
SECTIONS = {name: getattr(PARAMS, name).model_copy(update=FEWER) for name in ("evaluate", "compare")}
PARAMS = PARAMS.model_copy(update=SECTIONS)
NUMBERS = 100  # bytes per row that may remain: numbers of 8 bytes each, but no text


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small windows, and stages that run from the repository on a fake engine behind a real row cache."""

    def load(model_dir: Path, *_: object) -> CachedEngine:
        key = model_dir.name
        inner = FakeEngine(says=lambda prompt, seed: f"{prompt} {seed}.")
        inner.prompts = inner.answers = Forgetful()
        return CachedEngine(lambda: inner, row_cache.RowCache(tmp_path / "rows.sqlite"), (key, key), [], 0)

    monkeypatch.setattr(base, "WINDOW", 150)
    monkeypatch.setattr(jsonl, "RUN", 30_000)
    monkeypatch.setattr(evaluate, "EMBEDDED", 50)
    monkeypatch.setattr(metrics, "DRAWS", 1)
    monkeypatch.setattr(engines, "load", load)
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"weights")


class Forgetful(list):
    """A list that stays empty."""

    def append(self, _: object) -> None:
        pass


def questions(count: int, folder: Path) -> Callable[[], object]:
    rows = (Question(f"q{n:05}", f"What is it, {n}?", TEXT) for n in range(count // 2))
    jsonl.write(folder / "in.jsonl", rows, ordered=True)
    model = folder.parent / "base"
    return lambda: generate.main(
        model, model, folder / "in.jsonl", folder / "out.jsonl", folder / "metrics.json"
    )


def candidates(count: int, folder: Path) -> Callable[[], object]:
    rows = (
        Candidate(f"q{n:05}#0", f"q{n:05}", 0, f"What is it, {n}?", TEXT, f"{TEXT}{n}.", "stop")
        for n in range(count // 3)
    )
    jsonl.write(folder / "in.jsonl", rows, ordered=True)
    files = (folder / name for name in ("in.jsonl", "out.jsonl", "metrics.json", "histogram.tsv"))
    return lambda: judge.main(folder.parent / "judge", *files)


def judged(count: int, folder: Path) -> Callable[[], object]:
    scores = {"mass": 1.0, "truncated_chars": 0, "unscored": "", "finish_reason": "stop"}
    rows = (
        Judged(
            id=f"q{n // 2:05}#{n % 2}",
            question_id=f"q{n // 2:05}",
            sample=n % 2,
            question=f"What is it, {n // 2}?",
            reference=TEXT,
            text=f"{TEXT}{n}.",
            **dict.fromkeys(("accuracy", "completeness", "key_points", "score"), n % 2),
            **scores,
        )
        for n in range(count)
    )
    jsonl.write(folder / "in.jsonl", rows, ordered=True)
    files = (folder / name for name in ("in.jsonl", "out.jsonl", "metrics.json"))
    return lambda: pairs.main(*files)


def held_out(count: int, folder: Path) -> Callable[[], object]:
    """What `evaluate` answers and judges; its metrics hold numbers of every answer, and are left out."""
    rows = (
        HeldOut(f"q{n:05}", "open", f"What is it, {n}?", TEXT, (), "", f"{TEXT}{n}", TEXT)
        for n in range(count // 3)
    )
    jsonl.write(folder / "in.jsonl", rows, ordered=True)
    params, rows_on_disk = read_params(), jsonl.Rows(folder / "in.jsonl", HeldOut)
    policy, grader = (engines.load(folder.parent / name) for name in ("base", "judge"))

    def run() -> None:
        measured = evaluate.evaluate_model(
            policy, grader, embed, rows_on_disk, params.evaluate, params.judge, "judge"
        )
        jsonl.write(folder / "out.jsonl", measured)

    return run


def finished(count: int, folder: Path) -> RunPaths:
    """A run whose DPO says the same of every question, so that few phrases are as frequent as its own."""
    run = write_run(folder, count)
    (folder / "people").mkdir()
    for name in compare.MODELS:
        path = run.data / "answers" / f"{name}.jsonl"
        jsonl.write(path, [replace(row, text=TEXT * (name == "dpo")) for row in jsonl.read(path, Answer)])
    return run


def evaluated(count: int, folder: Path) -> Callable[[], object]:
    run = finished(count, folder)
    return lambda: stages.evaluate.compute_metrics(PARAMS, run.data / "answers" / "dpo.jsonl")


def compared(count: int, folder: Path) -> Callable[[], object]:
    run = finished(count, folder)
    files = (run.data / "answers", run.data / "agreement.jsonl", folder / "people")
    return lambda: stages.compare.compute_metrics(PARAMS, *files)


def reported(count: int, folder: Path) -> Callable[[], object]:
    run = finished(count, folder)
    return lambda: report.build(run, PARAMS)


def peak(prepare: Callable[[int, Path], Callable[[], object]], count: int, folder: Path) -> int:
    """The peak of traced memory of a stage on so many rows, in bytes."""
    folder.mkdir()
    run = prepare(count, folder)
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("prepare", [questions, candidates, judged, held_out])
def test_memory_does_not_grow_with_rows(prepare, tmp_path: Path) -> None:
    peak(prepare, 10, tmp_path / "imports")
    few = peak(prepare, FEW, tmp_path / "few")
    many = peak(prepare, MANY, tmp_path / "many")
    assert (many - few) / (MANY - FEW) < NUMBERS
    with open(tmp_path / "many" / "out.jsonl") as file:
        assert sum(1 for _ in file) >= MANY // 3


@pytest.mark.parametrize(("prepare", "bound"), [(evaluated, 300), (compared, 1000), (reported, 1000)])
def test_no_text_of_a_held_out_question_is_in_memory(prepare, bound: int, tmp_path: Path) -> None:
    """`bound` is in bytes per question: a number of 8 bytes per measure, in `compare` of five models."""
    sizes = few, many = 200, 600
    peak(prepare, 20, tmp_path / "imports")
    first, last = (peak(prepare, size, tmp_path / str(size)) for size in sizes)
    assert (last - first) / (many - few) < bound
