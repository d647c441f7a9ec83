"""Results by group of rows, such as one attribute or one source: means with intervals that hold together."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from medqa import metrics

MIN_ROWS = 5  # of a group that is measured; a mean of fewer says nothing

R = TypeVar("R")


def split(rows: Sequence[R], names: Callable[[R], Iterable[str]]) -> tuple[dict[str, list[R]], int]:
    """The groups to measure by name, in alphabetical order, and the number of groups that are too small.

    `names` are the groups of a row. A group of fewer than MIN_ROWS rows is too small. A group that holds all
    rows, or the same rows as one before it, would say nothing new: it is neither measured nor counted.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for name in names(row):
            members[name].append(number)
    measured: dict[tuple[int, ...], str] = {}
    for name in sorted(members):
        if MIN_ROWS <= len(members[name]) < len(rows):
            measured.setdefault(tuple(members[name]), name)
    too_small = sum(len(numbers) < MIN_ROWS for numbers in members.values())
    return {name: [rows[number] for number in numbers] for numbers, name in measured.items()}, too_small


def means(
    rows: Sequence[tuple[Iterable[str], Mapping[str, float]]], seed: int, samples: int
) -> dict[str, Any]:
    """The metrics `by` and `small_groups` of rows, each with its groups and its values by name.

    `by` has, for each group that `split` measures, its `rows` and the mean of each value with its bootstrap
    interval. The intervals of a value are adjusted so that they hold for all groups at once with 95%
    confidence (Bonferroni). In 200 simulated trials of ten groups, with skewed scores and with gains of which
    half are zero, they did so in 92 to 94% with 60 rows per group, in 86 to 92% with 20 and in 58 to 82% with
    10: the bootstrap is too narrow for small groups.
    """
    groups, too_small = split(rows, lambda row: row[0])
    by: dict[str, dict[str, float]] = {name: {"rows": len(group)} for name, group in groups.items()}
    for name, group in groups.items():
        for value in group[0][1]:
            values = [each[value] for _, each in group]
            by[name] |= metrics.named_interval(value, values, seed, samples, len(groups))
    return {"by": by, "small_groups": too_small}


def worst(by: Mapping[str, Mapping[str, float]], value: str) -> dict[str, Any]:
    """The group in which a value is lowest: its `name` and its metrics in `by`; empty without groups."""
    name = min(by, key=lambda name: by[name][value], default=None)
    return {} if name is None else {"name": name, **by[name]}
