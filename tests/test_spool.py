"""medqa.spool: what goes to the disk comes back, in order, in parts and in turns."""

import random
from pathlib import Path

import pytest

from medqa.records import Question
from medqa.spool import BLOCK, Spool, batches

ROWS = [Question(f"q{n}", "What? \ud83d\u2028", "So.", ("one", "two")) for n in range(2 * BLOCK + 5)]


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, len(ROWS)])
@pytest.mark.parametrize("block", [1, 7, BLOCK])
def test_items_come_back_in_order(tmp_path: Path, count: int, block: int) -> None:
    spool = Spool(iter(ROWS[:count]), tmp_path, block)
    assert len(spool) == count and list(spool) == ROWS[:count]
    assert [*spool[:3]] == ROWS[:count][:3] and spool[::-1] == ROWS[:count][::-1]
    assert not list(tmp_path.iterdir())  # the file has no name


def test_parts_are_read_in_turns(tmp_path: Path) -> None:
    rng, spool = random.Random(0), Spool(range(1000), tmp_path, 16)
    bounds = [sorted(rng.choices(range(1000), k=2)) for _ in range(20)]
    parts = [spool.part(*each) for each in bounds]
    for number, values in enumerate(zip(*parts, strict=False)):
        assert values == tuple(start + number for start, _ in bounds)
    assert list(zip(spool, spool, strict=True)) == [(number, number) for number in range(1000)]


@pytest.mark.parametrize("index", [1000, -1001])
def test_an_item_that_is_not_there_is_an_error(tmp_path: Path, index: int) -> None:
    spool = Spool(range(1000), tmp_path)
    assert (spool[-1], spool[999], spool[0]) == (999, 999, 0)
    with pytest.raises(IndexError):
        spool[index]


def test_it_is_in_the_folder_of_work_in_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "new"))
    assert list(Spool("abc")) == ["a", "b", "c"] and (tmp_path / "new").is_dir()


def test_batches_are_full_but_the_last() -> None:
    assert [*batches("abcde", 2)] == [["a", "b"], ["c", "d"], ["e"]]
