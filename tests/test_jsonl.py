"""medqa.jsonl: records survive the way to a file and back, and a file is complete or absent."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from medqa import jsonl
from medqa.records import Example, HeldOut, Judged, Question
from medqa.runtime.errors import UserError

ROWS = [
    Example("b", "open", "What is asthma?", 'Narrow airways: "wheeze"\nand cough.\u2028 \u00e9'),
    Example("a", "exam", "Which?\nA. x", "A"),
]
HELD_OUT = HeldOut("1", "open", "q", "r", ("fever", "rash"), "", "c", "r")
JUDGED = Judged("q#0", "q", 0, "q", "r", "t", "stop", None, None, None, None, 0.1, 0, "label mass under 0.5")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("rows", "record"),
    [(ROWS, Example), ([HELD_OUT], HeldOut), ([JUDGED], Judged)],
    ids=["text", "tuple", "none"],
)
def test_rows_come_back_sorted_by_id(tmp_path: Path, rows: list, record: type) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    assert jsonl.write(path, iter(rows)) == len(rows)
    assert list(jsonl.read(path, record)) == sorted(rows, key=lambda row: row.id)
    assert names(path.parent) == ["rows.jsonl"]


def test_an_id_that_comes_twice_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="id a comes twice"):
        jsonl.write(tmp_path / "rows.jsonl", [ROWS[1], ROWS[0], ROWS[1]])
    assert names(tmp_path) == []


@pytest.mark.parametrize(("ids", "message"), [("aab", "id a comes twice"), ("acb", "b comes too late")])
def test_ordered_rows_are_written_as_they_come(tmp_path: Path, ids: str, message: str) -> None:
    rows = [Example(row_id, "open", "q", "a") for row_id in ids]
    with pytest.raises(ValueError, match=message):
        jsonl.write(tmp_path / "rows.jsonl", iter(rows), ordered=True)
    assert names(tmp_path) == []
    assert jsonl.write(tmp_path / "rows.jsonl", iter(rows[1:2]), ordered=True) == 1
    assert list(jsonl.read(tmp_path / "rows.jsonl", Example)) == rows[1:2]


def test_rows_that_end_in_an_error_leave_the_old_file(tmp_path: Path) -> None:
    def torn() -> Iterator[Example]:
        yield ROWS[0]
        raise RuntimeError("midway")

    path = tmp_path / "rows.jsonl"
    jsonl.write(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        jsonl.write(path, torn())
    assert path.read_bytes() == before
    assert names(tmp_path) == ["rows.jsonl"]


def test_an_error_while_the_file_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.write(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        jsonl.write(path, [ROWS[1], Example("c", "open", "q", "half a character: \ud83d")])
    with pytest.raises(KeyboardInterrupt), jsonl.atomic_write(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert names(tmp_path) == ["rows.jsonl"]


GOOD = json.dumps({"id": "a", "kind": "open", "question": "q", "answer": "a"}).encode()


@pytest.mark.parametrize(
    "line",
    [
        GOOD[:-5],
        b"",
        b"[1, 2]",
        b"null",
        GOOD.replace(b'"answer"', b'"reply"'),
        GOOD.replace(b"}", b', "more": 1}'),
        b'{"id": "a"}',
        GOOD.replace(b'"q"', b'"\xff\xfe"'),
    ],
    ids=["torn", "blank", "list", "null", "other key", "one key more", "keys missing", "invalid UTF-8"],
)
def test_the_error_of_a_foreign_line_names_file_and_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    with pytest.raises(
        UserError, match=r"rows\.jsonl, line 2: not a Example record .*rerun the stage"
    ) as error:
        list(jsonl.read(path, Example))
    assert "\n" not in str(error.value)


def test_no_stage_can_work_on_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.write(path, [])
    assert list(jsonl.read(path, Example)) == [] and path.stat().st_size  # DVC warns of empty files
    with pytest.raises(UserError, match=r"rows\.jsonl holds no row"):
        jsonl.read_all(path, Example)


def test_metrics_are_rounded_scalars(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    jsonl.write_metrics(
        path, {"mean": 0.123456, "minus": -0.00001, "rows": 12345678, "sft": {"low": 1 / 3}, "x": "y"}
    )
    assert (
        path.read_text()
        == json.dumps(
            {"mean": 0.1235, "minus": 0.0, "rows": 12345678, "sft": {"low": 0.3333}, "x": "y"}, indent=2
        )
        + "\n"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_without_a_value_are_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError):
        jsonl.write_metrics(tmp_path / "metrics.json", {"sft": {"loss": value}})
    assert names(tmp_path) == []


def test_rows_are_sorted_without_all_of_them_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    text = "x" * 10_000
    tracemalloc.start()
    jsonl.write(
        tmp_path / "rows.jsonl", (Question(f"{-number % 2000:05}", text, "ü") for number in range(2000))
    )
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2_000_000 < (tmp_path / "rows.jsonl").stat().st_size
    assert [row.id for row in jsonl.read(tmp_path / "rows.jsonl", Question)] == [
        f"{n:05}" for n in range(2000)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
