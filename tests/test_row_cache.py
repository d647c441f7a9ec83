"""The row cache itself: bounded, shared by processes, and fast."""

import multiprocessing
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from medqa.runtime import row_cache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "rows.sqlite"


def test_the_store_is_bounded(file: Path) -> None:
    rows = row_cache.RowCache(file, limit=lambda _: 200_000)
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


@pytest.mark.parametrize(
    ("free", "expected"), [(0, row_cache.LIMIT), (10**9, row_cache.LIMIT), (10**12, 10**11)]
)
def test_the_store_may_take_a_tenth_of_a_large_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert row_cache.limit(tmp_path) == expected
