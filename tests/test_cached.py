"""CachedEngine: a hit is the same bytes as the work, what matters is a miss, and damage is never used."""

import random
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, certain, requests

from medqa import engines, generate, judge, prompts
from medqa.engines import Completion, Failure, Labels, Sampling
from medqa.engines.cached import CachedEngine
from medqa.records import Question
from medqa.runtime import row_cache, sections
from medqa.runtime.errors import UserError

WARM = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=8)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)
QUESTIONS = [f"What is {name}?" for name in ("gout", "asthma", "measles", "scurvy", "mumps")]


def cached(file: Path, inner: Any, **changes: Any) -> CachedEngine:
    settings = {"model": ("base", "base"), "identity": ["float32", "cpu"], "max_failed": 0} | changes
    return CachedEngine(lambda: inner, row_cache.RowCache(file), **settings)


def ask(
    engine: Any, questions: list[str] = QUESTIONS, sampling: Sampling = WARM, seed: int = 1
) -> list[Completion | Failure]:
    """The answers in the order of the questions, each exactly once."""
    results = list(engine.generate(requests(questions, seed), sampling))
    assert len(results) == len(questions)
    return [dict(results)[f"q{n}"] for n in range(len(questions))]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "rows.sqlite"


def test_what_was_made_is_never_asked_again(file: Path) -> None:
    first = ask(cached(file, FakeEngine()))
    again = FakeEngine()
    engine = cached(file, again)
    assert ask(engine, QUESTIONS[::-1]) == first[::-1]
    assert not again.prompts
    assert ask(engine, [*QUESTIONS, "And rickets?"])[:-1] == first
    assert again.prompts == ["And rickets?"]


def test_every_operation_gives_back_what_it_made(file: Path) -> None:
    rows = requests(QUESTIONS, answer="So.")
    for _ in range(2):
        inner = FakeEngine(judges=lambda text: Labels((0.1 + 0.2, 1 / 3, 0.0, 1e-300, 1 - 1e-16), 0.7))
        engine = cached(file, inner)
        labels = dict(engine.label_probabilities(rows, prompts.LABELS))
        likelihoods = dict(engine.answer_logprobs(rows))
        made = len(inner.prompts)
        assert set(labels.values()) == {inner.judges("")} and len(labels) == 5
        assert likelihoods == dict(inner.answer_logprobs(rows))
    assert made == 0


def test_a_closed_engine_is_let_go_and_loaded_again_for_a_missing_row(file: Path) -> None:
    loaded = []

    def start() -> FakeEngine:
        inner = FakeEngine()
        inner.itself = inner
        loaded.append(weakref.ref(inner))
        return inner

    with CachedEngine(start, row_cache.RowCache(file), ("base", "base"), [], 0) as engine:
        first = ask(engine)
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
    ask(cached(file, FakeEngine()))
    inner = FakeEngine()
    ask(cached(file, inner, **changes), sampling=sampling, seed=seed)
    assert inner.prompts == QUESTIONS


def test_a_seed_plays_no_part_in_a_greedy_answer_and_equal_rows_are_made_once(file: Path) -> None:
    inner = FakeEngine()
    engine = cached(file, inner)
    ask(engine, [*QUESTIONS, *QUESTIONS], GREEDY, 1)
    ask(engine, sampling=GREEDY, seed=2)
    assert inner.prompts == QUESTIONS


def test_another_label_set_is_a_miss(file: Path) -> None:
    class Labelling(FakeEngine):
        def label_probabilities(self, requests: list, labels: list) -> Iterator[tuple[str, Labels]]:
            return self._each(requests, lambda *_: Labels((1 / len(labels),) * len(labels), 1.0))

    for labels, count in (
        (prompts.LABELS, 5),
        (("A", "B"), 5),
        (prompts.LABELS[::-1], 5),
        (prompts.LABELS, 0),
    ):
        inner = Labelling()
        results = dict(cached(file, inner).label_probabilities(requests(QUESTIONS), labels))
        assert len(inner.prompts) == count
        assert all(len(row.probabilities) == len(labels) for row in results.values())


def test_the_engine_of_a_model_is_known_by_all_that_its_results_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents count, not names: another byte of base or adapter, or another dtype, is another identity."""
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    compute = sections.ComputeParams(
        generate_batch_size=1,
        judge_batch_size=1,
        engine="transformers",
        servers={},
        max_failed_rows=0,
        row_cache=True,
        cluster=None,
        processes=1,
        process_cores=None,
        process_gpus=None,
        checkpoint_minutes=1,
        tracking=None,
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
    identities = [str(engines.load(*each, compute, 1).identity) for each in made]
    assert len(set(identities)) == len(identities)
    assert str(engines.load(same, same, "float32", compute, 99).identity) == identities[1]


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
        policy, grader = FakeEngine(says=lambda prompt, seed: f"{prompt} {seed}"), FakeEngine()
        questions = [Question(name, f"What is {name}?", "A disease.") for name in sorted(ids[:count])]
        candidates = generate.generate_answers(cached(file, policy), questions, params, 0)
        judging = sections.JudgeParams(
            method="grades", template=template, criteria=criteria, min_mass=0.5, max_chars=600
        )
        engine = cached(file, grader, model=("judge", "judge"), identity=["judge"])
        judge.rank_answers(engine, candidates, judging)
        assert (len(policy.prompts), len(grader.prompts)) == (answers, scores)


class Broken(FakeEngine):
    """Raises `error` at the row after `count` rows."""

    def __init__(self, count: int, error: BaseException):
        super().__init__(says=self._answer)
        self.count, self.error = count, error

    def _answer(self, prompt: str, seed: int) -> str:
        if len(self.prompts) > self.count:
            raise self.error
        return prompt


def test_what_is_finished_when_an_engine_breaks_is_kept_and_the_rows_in_work_are_named(file: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        ask(cached(file, Broken(2, ZeroDivisionError())))
    assert caught.value.__notes__ == ["while the engine worked on q2, q3, q4"]
    again = FakeEngine()
    assert ask(cached(file, again)) == ask(FakeEngine())
    assert again.prompts == QUESTIONS[2:]


def test_rows_are_kept_while_a_slow_engine_works(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, counts = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for _ in cached(file, FakeEngine()).generate(requests(QUESTIONS), WARM):
        now[0] += 0.7  # seconds
        with closing(sqlite3.connect(file)) as db:
            counts.append(db.execute("SELECT count(*) FROM rows").fetchone()[0])
    assert counts == [1, 1, 3, 3, 5]


def test_ctrl_c_says_what_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache.RowCache, "written", 0)
    message = "2 rows of this run are kept in the row cache; dvc repro goes on"
    with (
        pytest.raises(KeyboardInterrupt, match=message),
        cached(file, Broken(2, KeyboardInterrupt())) as engine,
    ):
        ask(engine)


@pytest.mark.parametrize(
    ("change", "message", "kept"),
    [
        (lambda rows: rows[:-1], r"no result for 1 of 5 rows \(q4\)", 4),
        (lambda rows: [], r"no result for 5 of 5 rows \(q0, q1, ..., q3, q4\)", 0),
        (lambda rows: [*rows, rows[0]], "^q0: the engine gave a result twice, or unrequested", 5),
        (lambda rows: [("q9", rows[0][1]), *rows], "^q9: the engine gave a result twice, or unrequested", 0),
        (lambda rows: [("q0", None), *rows[1:]], "^q0: the engine gave no Completion for it", 0),
        (lambda rows: [rows[0], ("q1", "text")], "^q1: the engine gave no Completion for it", 1),
    ],
)
def test_a_lying_engine_is_named_and_nothing_false_is_kept(file: Path, change, message: str, kept) -> None:
    inner = FakeEngine()
    honest = inner.generate
    inner.generate = lambda *arguments: iter(change(list(honest(*arguments))))
    with pytest.raises(UserError, match=message):
        ask(cached(file, inner))
    again = FakeEngine()
    assert ask(cached(file, again)) == ask(FakeEngine())
    assert len(again.prompts) == len(QUESTIONS) - kept


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_so_many_rows_may_fail(file: Path, capsys: pytest.CaptureFixture, allowed: int) -> None:
    """Two of five rows fail: under the limit they are named, nothing of them is kept, the others are done."""
    bad = (QUESTIONS[1], QUESTIONS[3])
    engine = cached(file, FakeEngine(fails=lambda prompt: prompt in bad), max_failed=allowed)
    if allowed < 2:
        with pytest.raises(UserError, match=f"^q{(1, 3)[allowed]}: does not fit$"):
            ask(engine)
        return
    answers = ask(engine)
    assert [isinstance(row, Failure) for row in answers] == [question in bad for question in QUESTIONS]
    message = capsys.readouterr().err
    assert "q1: does not fit; it is left undone (1 of at most 2)" in message
    assert "q3: does not fit" in message
    again = FakeEngine()
    assert ask(cached(file, again)) == ask(FakeEngine())
    assert again.prompts == [*bad]


def test_equal_requests_fail_together_and_count_once(file: Path) -> None:
    engine = cached(file, FakeEngine(fails=lambda prompt: True), max_failed=1)
    assert ask(engine, [QUESTIONS[0]] * 3) == [Failure("does not fit")] * 3


def test_a_number_that_is_not_finite_is_not_kept(file: Path) -> None:
    for _ in range(2):
        inner = FakeEngine(judges=lambda text: certain("1", mass=float("nan")))
        list(cached(file, inner).label_probabilities(requests(["?"]), prompts.LABELS))
        assert inner.prompts


def test_any_flipped_byte_of_a_row_is_a_miss_or_found(file: Path, capsys: pytest.CaptureFixture) -> None:
    expected = ask(cached(file, FakeEngine()))
    with sqlite3.connect(file) as db:
        key, value = db.execute("SELECT key, value FROM rows ORDER BY key LIMIT 1").fetchone()
        db.execute("UPDATE rows SET value = ? WHERE key = ?", (value.replace(b"W", b"V"), key))
    db.close()
    again = FakeEngine()
    assert ask(cached(file, again)) == expected and len(again.prompts) == 1
    assert "1 damaged rows" in capsys.readouterr().err
    last = FakeEngine()
    assert ask(cached(file, last)) == expected and not last.prompts


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_never_believed(file: Path, seed: int) -> None:
    expected = ask(cached(file, FakeEngine()))
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
        assert ask(cached(file, FakeEngine())) == expected
    last = FakeEngine()
    assert ask(cached(file, last)) == expected and not last.prompts


def test_a_torn_write_ahead_log_loses_no_more_than_its_end(file: Path) -> None:
    engine = cached(file, FakeEngine())
    ask(engine, QUESTIONS[:3])
    expected = ask(engine)
    log = Path(f"{file}-wal")
    torn = log.read_bytes()[:-100]
    # As after a power loss: the file as it is on the disk, the log without its last bytes, no shared memory.
    copy = file.parent / "copy.sqlite"
    copy.write_bytes(file.read_bytes())
    Path(f"{copy}-wal").write_bytes(torn)
    again = FakeEngine()
    assert ask(cached(copy, again)) == expected and again.prompts == QUESTIONS[3:]


def test_a_foreign_file_is_dropped_and_said(file: Path, capsys: pytest.CaptureFixture) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is not a database at all, but longer than its header would be" * 20)
    ask(cached(file, FakeEngine()))
    again = FakeEngine()
    ask(cached(file, again))
    assert not again.prompts and "is damaged" in capsys.readouterr().err


def test_a_file_of_another_layout_is_said_and_not_used(file: Path, capsys: pytest.CaptureFixture) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE rows(key BLOB PRIMARY KEY, value BLOB)")
    db.close()
    assert ask(cached(file, FakeEngine())) == ask(FakeEngine())
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_cannot_be_opened_is_said_once_and_not_used(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    file.mkdir(parents=True)
    assert ask(cached(file, FakeEngine())) == ask(FakeEngine())
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("limit", ["query_only=ON", "max_page_count=1"])
def test_a_read_only_or_full_disk_is_said_once_and_the_run_goes_on(
    file: Path, capsys: pytest.CaptureFixture, limit: str
) -> None:
    ask(cached(file, FakeEngine()), QUESTIONS[:2])
    inner = FakeEngine(says=lambda prompt, seed: prompt if prompt in QUESTIONS[:2] else prompt * 1000)
    engine = cached(file, inner)
    engine.cache.db.execute(f"PRAGMA {limit}")
    assert ask(engine) == ask(FakeEngine(says=inner.says)) and len(inner.prompts) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "cannot be written" in message
