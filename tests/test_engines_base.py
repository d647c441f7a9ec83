"""engines.compute: windows of requests, and results in the order of the rows."""

import random
from collections.abc import Iterator, Sequence

import pytest

from medqa import prompts
from medqa.engines import Request, base, compute

ROWS = [[Request(f"{n}:{part}", prompts.ask("Why?")) for part in range(n % 4)] for n in range(50)]


@pytest.mark.parametrize("window", [1, 2, 3, 7, 1000])
def test_results_come_in_order_and_windows_are_bounded(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(base, "WINDOW", window)
    sizes, read = [], 0

    def rows() -> Iterator[Sequence[Request]]:
        nonlocal read
        for row in ROWS:
            read += 1
            yield row

    def shuffled(requests: Sequence[Request]) -> Iterator[tuple[str, str]]:
        sizes.append(len(requests))
        yield from random.Random(0).sample(
            [(each.id, f"result {each.id}") for each in requests], len(requests)
        )

    ahead = 0
    for number, row in enumerate(compute(shuffled, rows(), "test", len(ROWS))):
        assert row == [f"result {request.id}" for request in ROWS[number]]
        ahead = max(ahead, read - number)
    assert sum(sizes) == sum(map(len, ROWS)) and max(sizes) <= max(window, 3) and 0 not in sizes
    assert ahead <= window + 1  # rows in memory
    assert len(sizes) == 1 if window == 1000 else len(sizes) > 75 // max(window, 3)


def test_a_bar_counts_rows_as_they_end(capsys: pytest.CaptureFixture) -> None:
    assert (
        len([*compute(lambda requests: [(each.id, 1) for each in requests], ROWS, "rows", len(ROWS))]) == 50
    )
    assert "rows: 100%|##########| 50/50" in capsys.readouterr().err
