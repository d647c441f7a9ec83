"""Windows of rows: bounded, of neighbours; what is done again after a death ends at the row that kills."""

import pytest
from fake_engine import requests

from medqa.engines.windows import Window, windows


@pytest.mark.parametrize(
    ("rows", "replicas", "batch_size", "sizes"),
    [
        (0, 2, 4, []),
        (1, 4, 4, [1]),
        (8, 2, 64, [4, 4]),  # few rows: each replica has its share
        (32, 2, 2, [4] * 8),
        (20, 2, 4, [4] * 5),  # at least a batch
        (100, 2, 1, [8] * 12 + [4]),  # at most 8 batches
    ],
)
def test_sizes(rows: int, replicas: int, batch_size: int, sizes: list[int]) -> None:
    everything = requests([str(number) for number in range(rows)])
    made = list(windows(everything, replicas, batch_size))
    assert [len(window.requests) for window in made] == sizes
    assert [row for window in made for row in window.requests] == everything


def test_the_samples_of_a_prompt_stay_together() -> None:
    rows = requests([str(number // 3) for number in range(30)])
    assert [len(window.requests) for window in windows(rows, 2, 4)] == [6, 6, 6, 6, 6]


@pytest.mark.parametrize(("rows", "deaths"), [(1, 2), (2, 3), (13, 6), (512, 11)])
def test_a_row_that_kills_is_found_and_all_others_are_done(rows: int, deaths: int) -> None:
    everything = requests([str(number) for number in range(rows)])
    waiting, done, died = [Window(everything)], [], 0
    while waiting:
        window = waiting.pop(0)
        if everything[-1] not in window.requests:
            done += window.requests
            continue
        window.deaths += 1
        died += 1
        retries = window.retries()
        assert retries or list(window.requests) == everything[-1:]
        waiting = [*retries, *waiting]
    assert done == everything[:-1] and died == deaths


def test_a_death_alone_halves_nothing() -> None:
    window = Window(requests(["a", "b"]), deaths=1)
    assert window.retries() == [window]
