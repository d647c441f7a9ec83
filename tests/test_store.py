"""The row store: a hit is the same bytes as the work, anything that matters is a miss, damage is never used."""

import multiprocessing
import random
import sqlite3
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, certain

from medqa import engines, generate, judge, prompts
from medqa.engines import Completion, Labels, RowError, Sampling
from medqa.engines.cached import CachedEngine
from medqa.records import Question
from medqa.runtime import row_cache, sections
from medqa.runtime.errors import UserError

WARM = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=8)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)
QUESTIONS = [f"What is {name}?" for name in ("gout", "asthma", "measles", "scurvy", "mumps")]


def stored(file: Path, inner: Any, **changes: Any) -> CachedEngine:
    given = {"model": ("base", "base"), "identity": ["float32", "cpu"], "chunk": 2} | changes
    return CachedEngine(lambda: inner, row_cache.RowCache(file), **given)


def ask(
    engine: Any, questions: list[str] = QUESTIONS, sampling: Sampling = WARM, seed: int = 1
) -> list[Completion]:
    return engine.generate(
        [prompts.ask(question) for question in questions], sampling, [seed] * len(questions)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "rows.sqlite"


def test_what_was_made_is_never_asked_again(file: Path) -> None:
    first = ask(stored(file, FakeEngine()))
    again, counted = FakeEngine(), []
    engine = stored(file, again, progress=counted.append, chunk=3)
    assert ask(engine, QUESTIONS[::-1]) == first[::-1]
    assert not again.asked and sum(counted) == len(QUESTIONS)
    assert ask(engine, [*QUESTIONS, "And rickets?"])[:-1] == first
    assert again.asked == ["And rickets?"]


def test_every_operation_gives_back_what_it_made(file: Path) -> None:
    asked = [prompts.ask(question) for question in QUESTIONS]
    for _ in range(2):
        inner = FakeEngine(judges=lambda text: Labels((0.1 + 0.2, 1 / 3, 0.0, 1e-300, 1 - 1e-16), 0.7))
        engine = stored(file, inner)
        assert engine.label_probabilities(asked, prompts.LABELS) == [inner.judges("")] * 5
        assert engine.answer_logprobs(asked, QUESTIONS) == inner.answer_logprobs(asked, QUESTIONS)
    assert not inner.asked


def test_a_freed_engine_is_let_go_and_loaded_again_for_a_missing_row(file: Path) -> None:
    loaded = []

    def load() -> FakeEngine:
        inner = FakeEngine()
        inner.itself = inner
        loaded.append(weakref.ref(inner))
        return inner

    engine = CachedEngine(load, row_cache.RowCache(file), model=("base", "base"), identity=[], chunk=2)
    first = ask(engine)
    engine.free()
    assert loaded[0]() is None
    assert ask(engine) == first and len(loaded) == 1
    ask(engine, ["And rickets?"])
    assert len(loaded) == 2


@pytest.mark.parametrize(
    ("changes", "sampling", "seed"),
    [
        ({"identity": ["bfloat16", "cpu"]}, WARM, 1),
        ({"identity": ["float32", "cuda"]}, WARM, 1),
        ({}, replace(WARM, temperature=0.8), 1),
        ({}, replace(WARM, max_new_tokens=9), 1),
        ({}, WARM, 2),
    ],
)
def test_what_determines_an_answer_is_a_miss(
    file: Path, changes: dict, sampling: Sampling, seed: int
) -> None:
    ask(stored(file, FakeEngine()))
    inner = FakeEngine()
    ask(stored(file, inner, **changes), sampling=sampling, seed=seed)
    assert sorted(inner.asked) == sorted(QUESTIONS)


def test_a_seed_plays_no_part_in_a_greedy_answer_and_equal_rows_are_made_once(file: Path) -> None:
    inner, counted = FakeEngine(), []
    engine = stored(file, inner, progress=counted.append)
    assert len(ask(engine, [*QUESTIONS, *QUESTIONS], GREEDY, 1)) == 10
    ask(engine, sampling=GREEDY, seed=2)
    assert sorted(inner.asked) == sorted(QUESTIONS) and sum(counted) == 5 + 5


def test_another_model_or_label_set_is_a_miss(file: Path) -> None:
    asked = [prompts.ask(question) for question in QUESTIONS]

    class Labelling(FakeEngine):
        def label_probabilities(self, asked: list, labels: list) -> list[Labels]:
            self.asked += asked
            return [Labels((1 / len(labels),) * len(labels), 1.0) for _ in asked]

    for labels, times in (
        (prompts.LABELS, 5),
        (("A", "B"), 5),
        (prompts.LABELS[::-1], 5),
        (prompts.LABELS, 0),
    ):
        inner = Labelling()
        given = stored(file, inner).label_probabilities(asked, labels)
        assert len(inner.asked) == times and all(len(row.probabilities) == len(labels) for row in given)


def test_the_engine_of_a_model_is_known_by_all_that_its_results_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents count, names do not: another byte of base or adapter, and another dtype, are other identities."""
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    compute = sections.ComputeParams(
        generate_batch_size=1,
        judge_batch_size=1,
        engine="transformers",
        servers={},
        max_failed_rows=0,
        row_cache=True,
        processes=1,
        checkpoint_minutes=1,
    )
    for name, content in (("base", "a"), ("same", "a"), ("other", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(content)
    base, same, other = (tmp_path / name for name in ("base", "same", "other"))
    made = [
        (base, None, "float32"),
        (base, base, "float32"),
        (base, other, "float32"),
        (other, base, "float32"),
    ]
    made += [(base, base, "bfloat16")]
    told = [str(engines.load(*each, compute, 1).identity) for each in made]
    assert len(set(told)) == len(told)
    assert str(engines.load(same, same, "float32", compute, 99).identity) == told[1]


def test_a_hundred_more_questions_cost_a_hundred_more_and_another_judge_prompt_no_generation(
    file: Path,
) -> None:
    params = sections.GenerateParams(n=2, temperature=0.7, top_p=0.95, max_new_tokens=8)
    criteria = sections.Criteria(accuracy=1, completeness=1, key_points=1)
    # Ids are spread: the new ones come in between the old ones.
    ids = [f"q{number * 7919 % 1100:04}" for number in range(1100)]
    templates = ("judge", "judge", "judge-short")
    for count, template, answers, scores in zip(
        (1000, 1100, 1100), templates, (2000, 200, 0), (6000, 600, 6600), strict=True
    ):
        policy, judging = FakeEngine(says=lambda asked, seed: f"{asked} {seed}"), FakeEngine()
        questions = [Question(name, f"What is {name}?", "A disease.") for name in sorted(ids[:count])]
        made = generate.generate_answers(stored(file, policy, chunk=512), questions, params, 0)
        given = sections.JudgeParams(template=template, criteria=criteria, min_mass=0.5, max_chars=600)
        engine = stored(file, judging, chunk=512, model=("judge", "judge"), identity=["judge"])
        judge.rank_answers(engine, made, given)
        assert (len(policy.asked), len(judging.asked)) == (answers, scores)


def test_a_chunk_is_kept_before_the_next_is_asked(file: Path) -> None:
    inner = FakeEngine()

    def says(asked: str, seed: int) -> str:
        if len(inner.asked) > 4:
            raise ZeroDivisionError
        return asked

    inner.says = says
    with pytest.raises(ZeroDivisionError):
        ask(stored(file, inner))
    again = FakeEngine()
    ask(stored(file, again))
    assert len(again.asked) == 1


def test_ctrl_c_says_what_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache.RowCache, "written", 0)
    inner = FakeEngine()
    inner.says = lambda asked, seed: (
        asked if len(inner.asked) < 3 else (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(
        KeyboardInterrupt, match="2 rows of this run are kept in the store; dvc repro goes on"
    ):
        ask(stored(file, inner))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rows: rows[:-1], r"1 results for 2 rows \(q0, q1\)"),
        (lambda rows: [*rows, rows[0]], r"3 results for 2 rows \(q0, q1\)"),
        (lambda rows: [None, *rows[1:]], "^q0: the engine gave no Completion for it"),
        (lambda rows: ["text", *rows[1:]], "^q0: the engine gave no Completion for it"),
        (lambda rows: [], r"0 results for 2 rows \(q0, q1\)"),
    ],
)
def test_a_lying_engine_is_named_and_nothing_of_it_is_kept(
    file: Path, answer: Callable, message: str
) -> None:
    inner = FakeEngine()
    honest = inner.generate
    inner.generate = lambda *given: answer(honest(*given))
    with pytest.raises(UserError, match=message), engines.naming([f"q{n}" for n in range(5)]):
        ask(stored(file, inner))
    again = FakeEngine()
    ask(stored(file, again))
    assert len(again.asked) == len(QUESTIONS)


def test_an_exception_in_the_midst_of_a_chunk_names_its_rows(file: Path) -> None:
    inner = FakeEngine()
    inner.says = lambda asked, seed: asked if len(inner.asked) <= 2 else [][0]
    with pytest.raises(IndexError) as told, engines.naming([f"q{n}" for n in range(5)]):
        ask(stored(file, inner))
    assert told.value.__notes__ == ["while the engine worked on q2, q3"]
    again = FakeEngine()
    assert ask(stored(file, again)) == ask(FakeEngine()) and len(again.asked) == 3


def test_an_error_about_a_row_names_its_id(file: Path) -> None:
    inner = FakeEngine()
    honest = inner.generate

    def generate(asked: list, *rest: Any) -> list:
        texts = [messages[-1]["content"] for messages in asked]
        if QUESTIONS[3] in texts:
            raise RowError(texts.index(QUESTIONS[3]), "does not fit")
        return honest(asked, *rest)

    inner.generate = generate
    with pytest.raises(UserError, match="^q3: does not fit"), engines.naming([f"q{n}" for n in range(5)]):
        ask(stored(file, inner))


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_so_many_rows_may_be_left_undone(file: Path, capsys: pytest.CaptureFixture, allowed: int) -> None:
    """Two of five rows fail: under the limit they are named, nothing is kept of them, and the others are
    done.
    """
    inner, bad = FakeEngine(), (QUESTIONS[1], QUESTIONS[3])
    honest = inner.generate

    def generate(asked: list, *rest: Any) -> list:
        for place, messages in enumerate(asked):
            if messages[-1]["content"] in bad:
                raise RowError(place, "does not fit")
        return honest(asked, *rest)

    inner.generate = generate
    engine = stored(file, inner, max_failed=allowed)
    with engines.naming([f"q{n}" for n in range(len(QUESTIONS))]):
        if allowed < 2:
            with pytest.raises(RowError):
                ask(engine)
            return
        given = ask(engine)
    assert [row.finish_reason for row in given] == [
        "failed" if question in bad else "stop" for question in QUESTIONS
    ]
    told = capsys.readouterr().err
    assert "q1: does not fit; it is left undone (1 of at most 2)" in told and "q3: does not fit" in told
    again = FakeEngine()
    assert [row.finish_reason for row in ask(stored(file, again))] == ["stop"] * len(QUESTIONS)
    assert sorted(again.asked) == sorted(bad)


def test_a_number_that_is_not_finite_is_not_kept(file: Path) -> None:
    asked = [prompts.ask("?")]
    for _ in range(2):
        inner = FakeEngine(judges=lambda text: certain("1", mass=float("nan")))
        stored(file, inner).label_probabilities(asked, prompts.LABELS)
        assert inner.asked


def test_any_flipped_byte_of_a_row_is_a_miss_or_found(file: Path, capsys: pytest.CaptureFixture) -> None:
    expected = ask(stored(file, FakeEngine()))
    with sqlite3.connect(file) as db:
        key, value = db.execute("SELECT key, value FROM rows ORDER BY key LIMIT 1").fetchone()
        db.execute("UPDATE rows SET value = ? WHERE key = ?", (value.replace(b"W", b"V"), key))
    db.close()
    again = FakeEngine()
    assert ask(stored(file, again)) == expected and len(again.asked) == 1
    assert "1 damaged rows" in capsys.readouterr().err
    last = FakeEngine()
    assert ask(stored(file, last)) == expected and not last.asked


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_never_believed(file: Path, seed: int) -> None:
    expected = ask(stored(file, FakeEngine()))
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    whole, rng = bytearray(file.read_bytes()), random.Random(seed)
    if seed % 3 == 0:
        whole = whole[: rng.randrange(len(whole))]
    else:
        for _ in range(40 if seed % 3 == 1 else 1):
            whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    file.write_bytes(whole)
    for _ in range(2):
        assert ask(stored(file, FakeEngine())) == expected
    last = FakeEngine()
    assert ask(stored(file, last)) == expected and not last.asked


def test_a_torn_write_ahead_log_loses_no_more_than_its_end(file: Path) -> None:
    inner = FakeEngine()
    engine = stored(file, inner)
    expected = ask(engine)
    log = Path(f"{file}-wal")
    torn = log.read_bytes()[:-100]
    # As after a power loss: the file as it is on the disk, the log without its last bytes, no shared memory.
    copy = file.parent / "copy.sqlite"
    copy.write_bytes(file.read_bytes())
    Path(f"{copy}-wal").write_bytes(torn)
    again = FakeEngine()
    assert ask(stored(copy, again)) == expected and 1 <= len(again.asked) <= 2


def test_a_foreign_file_is_dropped_and_said(file: Path, capsys: pytest.CaptureFixture) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is not a database at all, but longer than its header would be" * 20)
    ask(stored(file, FakeEngine()))
    again = FakeEngine()
    ask(stored(file, again))
    assert not again.asked and "is damaged" in capsys.readouterr().err


def test_a_file_of_another_layout_is_said_and_not_used(file: Path, capsys: pytest.CaptureFixture) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE rows(key BLOB PRIMARY KEY, value BLOB)")
    db.close()
    assert ask(stored(file, FakeEngine())) == ask(FakeEngine())
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_cannot_be_opened_is_said_once_and_not_used(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    file.mkdir(parents=True)
    assert ask(stored(file, FakeEngine())) == ask(FakeEngine())
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("limit", ["query_only=ON", "max_page_count=1"])
def test_a_read_only_or_full_disk_is_said_once_and_the_run_goes_on(
    file: Path, capsys: pytest.CaptureFixture, limit: str
) -> None:
    ask(stored(file, FakeEngine()), QUESTIONS[:2])
    inner = FakeEngine(says=lambda asked, seed: asked if asked in QUESTIONS[:2] else asked * 1000)
    engine = stored(file, inner)
    engine.store.db.execute(f"PRAGMA {limit}")
    assert ask(engine) == ask(FakeEngine(says=inner.says)) and len(inner.asked) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "cannot be written" in told


def test_the_store_is_bounded(file: Path) -> None:
    rows = row_cache.RowCache(file, limit=200_000)
    for start in range(0, 4000, 50):
        rows.put(
            "base", {f"{number:032}".encode(): ["x" * 100, "stop", 1] for number in range(start, start + 50)}
        )
    assert row_cache.size(rows.db) < 250_000
    assert rows.db.execute("SELECT count(*) FROM rows").fetchone()[0] > 300


def _write(file: Path, start: int) -> None:
    rows = row_cache.RowCache(file)
    for number in range(start, start + 200):
        rows.put("base", {f"{number:032}".encode(): [str(number)]})


def test_two_processes_share_it(file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(file, start)) for start in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    keys = [f"{number:032}".encode() for number in range(300)]
    known = row_cache.RowCache(file).get("base", "base", keys)
    assert known == {key: [str(number)] for number, key in enumerate(keys)}


def test_a_row_costs_under_a_millisecond(file: Path) -> None:
    rows = row_cache.RowCache(file)
    batches = [{random.randbytes(32): ["word " * 300, "stop", 300] for _ in range(64)} for _ in range(20)]
    started = time.perf_counter()
    for batch in batches:
        rows.put("base", batch)
    keys = [key for batch in batches for key in batch]
    assert len(rows.get("base", "base", keys)) == len(keys)
    assert (time.perf_counter() - started) / len(keys) < 1e-3
