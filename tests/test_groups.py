"""medqa.groups: which groups are measured, and intervals that hold for all of them at once."""

from statistics import fmean

import numpy as np
import pytest

from medqa import groups, metrics


@pytest.mark.parametrize(
    ("names", "measured", "too_small"),
    [
        ([["a"]] * 5 + [["b"]] * 6, {"a": 5, "b": 6}, 0),
        ([["a"]] * 4 + [["b"]] * 6, {"b": 6}, 1),
        ([["a"]] * 4 + [["b"]] + [["c"]] * 5, {"c": 5}, 2),
        # A group that holds all rows, or those of another group, says nothing of its own.
        ([["a", "all"]] * 5 + [["b", "all"]] * 5, {"a": 5, "b": 5}, 0),
        ([["z", "a"]] * 5 + [["b"]] * 5, {"a": 5, "b": 5}, 0),
        ([["a", "y"]] * 5 + [["b", "y"]] * 5 + [[]] * 5, {"a": 5, "b": 5, "y": 10}, 0),
        ([["a"]] * 8, {}, 0),
        ([[]] * 8, {}, 0),
        ([], {}, 0),
    ],
)
def test_groups_that_say_something_are_measured(
    names: list[list[str]], measured: dict[str, int], too_small: int
) -> None:
    by_name, small = groups.split(names)
    assert {name: len(group) for name, group in by_name.items()} == measured and small == too_small
    assert list(by_name) == sorted(by_name)
    for name, rows in by_name.items():
        assert rows.tolist() == [number for number, each in enumerate(names) if name in each]


def test_means_are_what_one_counts_by_hand() -> None:
    scores = {"a": [0.1, 0.2, 0.3, 0.4, 0.6], "b": [0.9, 0.8, 0.9, 0.7, 1.0, 0.0], "c": [1.0] * 4}
    names = [(name,) for name, group in scores.items() for _ in group]
    values = np.concatenate([*scores.values()])
    result = groups.means(names, {"score": values, "f1": values / 2}, seed=0, samples=400)
    assert result["small_groups"] == 1 and list(result["by"]) == ["a", "b"]
    for name, group in result["by"].items():
        assert (group["rows"], group["score"]) == (len(scores[name]), pytest.approx(fmean(scores[name])))
        assert group["f1"] == pytest.approx(group["score"] / 2)
        assert group["score_low"] < group["score"] < group["score_high"]
    low, high = metrics.mean_interval(scores["a"], 0, 400, intervals=2)[1:]
    assert (result["by"]["a"]["score_low"], result["by"]["a"]["score_high"]) == (low, high)
    assert groups.worst(result["by"], "score") == {"name": "a", **result["by"]["a"]}
    assert groups.worst({}, "score") == {}


def test_ten_intervals_hold_at_once_as_often_as_they_say() -> None:
    """500 evaluations of ten groups of 60 rows: scores from 0 to 1 with a mean of 0.3."""
    rng, hits, unadjusted = np.random.default_rng(0), 0, 0
    for trial in range(500):
        scores = rng.beta(0.6, 1.4, size=(10, 60))
        names = [(f"group {n}",) for n, group in enumerate(scores) for _ in group]
        by = groups.means(names, {"score": scores.ravel()}, seed=trial, samples=1000)["by"]
        hits += all(each["score_low"] <= 0.3 <= each["score_high"] for each in by.values())
        alone = [metrics.mean_interval(group, trial, 400)[1:] for group in scores]
        unadjusted += all(low <= 0.3 <= high for low, high in alone)
    assert hits / 500 >= 0.9 and unadjusted / 500 <= 0.7, (hits, unadjusted)
