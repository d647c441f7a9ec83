"""medqa.columns: numbers of rows as columns, with NaN where a row has none."""

import numpy as np

from medqa.columns import collect, present


def test_a_column_has_a_number_per_row_and_nan_where_there_is_none() -> None:
    rows = iter([3, None, True])
    columns = collect(rows, {"value": lambda row: row, "known": lambda row: row is not None})
    assert columns["value"][[0, 2]].tolist() == [3.0, 1.0] and np.isnan(columns["value"][1])
    assert columns["known"].tolist() == [1.0, 0.0, 1.0]
    assert present(columns["value"]).tolist() == [3.0, 1.0]
    assert {column.dtype for column in columns.values()} == {np.dtype("float64")}


def test_no_row_is_an_empty_column() -> None:
    assert collect([], {"value": lambda row: row})["value"].shape == (0,)
