"""Columns: a number of 8 bytes per row and measure, where the rows with their texts would fill the memory."""

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np

R = TypeVar("R")
Columns = dict[str, np.ndarray]  # by measure, each (rows,), float64


def collect(rows: Iterable[R], measures: Mapping[str, Callable[[R], float | None]]) -> Columns:
    """The values of each measure in the order of the rows; NaN where a row has none."""
    columns = {name: array("d") for name in measures}
    pairs = [(value, columns[name].append) for name, value in measures.items()]
    for row in rows:
        for value, append in pairs:
            number = value(row)
            append(math.nan if number is None else number)
    return {name: np.frombuffer(column) for name, column in columns.items()}


def present(column: np.ndarray) -> np.ndarray:
    """The values of a column without NaN."""
    return column[~np.isnan(column)]
