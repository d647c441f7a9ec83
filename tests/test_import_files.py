"""`medqa import`: every form of a table gives the same four files, which the stage `data` reads whole."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from medqa.commands.cli import main
from medqa.data import load_medical_data
from medqa.runtime import presets
from medqa.runtime.sections import DataParams

ROOT = Path(__file__).parent.parent
NAMES = ("sft.jsonl", "preference_train.json", "preference_dev.json", "preference_test.json")
# A comma, a semicolon, quotes, a line break and letters beyond ASCII, in one answer.
TABLE = [
    {
        "Question": f"What helps against malady {number * 7919}?",
        "Answer": f'Rest for {number} days; then "café".\nDrink {number} cups, warm. See doctor {number}.',
        "Topic": "treatment",
    }
    for number in range(60)
]
COLUMNS = ("--question", "Question", "--answer", "Answer")


def csv_text(delimiter: str, line_end: str) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(TABLE[0]), delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(TABLE)
    return file.getvalue()


def parquet_bytes() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(TABLE), file)
    return file.getvalue()


FORMS: dict[str, Callable[[], bytes]] = {
    "commas": lambda: csv_text(",", "\n").encode(),
    "Excel's CSV UTF-8": lambda: csv_text(",", "\r\n").encode("utf-8-sig"),
    "Excel's CSV where a comma is decimal": lambda: csv_text(";", "\r\n").encode("cp1252"),
    "Excel's CSV of the old Mac": lambda: csv_text(",", "\r").encode("cp1252"),
    "Excel's Unicode text": lambda: csv_text("\t", "\r\n").encode("utf-16"),
    "TSV": lambda: csv_text("\t", "\n").encode(),
    "gzipped CSV": lambda: gzip.compress(csv_text(",", "\n").encode()),
    "JSON": lambda: json.dumps(TABLE, indent=1).encode(),
    "JSON lines": lambda: b"".join(json.dumps(row).encode() + b"\n" for row in TABLE),
    "gzipped JSON lines": lambda: gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in TABLE)),
    "parquet": parquet_bytes,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def import_rows(content: bytes | list[dict[str, Any]], *options: str) -> int:
    data = json.dumps(content).encode() if isinstance(content, list) else content
    Path("table").write_bytes(data)
    return main(["import", "table", *COLUMNS, *options])


def written(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("data/raw", name).read_text().splitlines()]


def data_params(**changes: Any) -> DataParams:
    return DataParams(**presets.read("files", ROOT / "presets")["data"] | changes)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_files(form: str) -> None:
    assert import_rows(FORMS[form](), "--attribute", "Topic") == 0
    answers = {
        row["conversations"][0]["value"]: row["conversations"][1]["value"] for row in written("sft.jsonl")
    }
    table = {row["Question"]: row["Answer"] for row in TABLE}
    assert len(answers) == 30 and answers.items() <= table.items()
    assert [len(written(name)) for name in NAMES] == [30, 18, 6, 6]
    assert {row["metadata"]["attribute"] for row in written("preference_dev.json")} == {"treatment"}


def test_the_stage_data_reads_every_row() -> None:
    assert import_rows(TABLE) == 0
    loaded = load_medical_data(Path("data/raw"), data_params(near_duplicate=None), seed=0)
    assert not loaded.quarantine
    counts = [len(rows) for rows in (loaded.sft, loaded.questions, loaded.held_out, loaded.labelled)]
    assert counts == [30, 18, 12, 12]
    assert {row.labelled_by for row in loaded.labelled} == {"code"}
    answers = {row["Question"]: row["Answer"] for row in TABLE}
    for row in loaded.labelled:
        assert row.reference == answers[row.question]
        # A judge that only recognises the reference gains nothing.
        assert sorted(row.chosen.split()) == sorted(row.reference.split()) and row.chosen != row.reference
        assert row.rejected != row.chosen
    assert {row.label_type for row in loaded.labelled} <= {"easy", "missing_point", "wrong_detail"}
    assert {row.reference for row in loaded.questions} <= set(answers.values())


def test_a_prompt_is_in_one_split() -> None:
    twice = [
        row | {"Question": row["Question"].upper(), "Answer": row["Answer"] + " Again."} for row in TABLE
    ]
    assert import_rows(TABLE + twice) == 0
    prompts = {"sft.jsonl": {row["conversations"][0]["value"].lower() for row in written("sft.jsonl")}}
    prompts |= {name: {row["prompt"].lower() for row in written(name)} for name in NAMES[1:]}
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values())) == len(TABLE)
    assert len(written("sft.jsonl")) == 60


def test_rejected_answers_and_references_of_the_user(capsys: pytest.CaptureFixture) -> None:
    table = [
        row | {"Bad": f"No {number}." if number else "", "Gold": f"Rest {number}.", "By": "people"}
        for number, row in enumerate(TABLE)
    ]
    options = ("--rejected", "Bad", "--reference", "Gold", "--labelled-by", "By", "--questions", "0.7")
    assert import_rows(table, *options) == 0
    rows = [row for name in NAMES[1:] for row in written(name)]
    plain = [row for row in rows if row["metadata"]["labelled_by"] == "people"]
    assert len(plain) >= len(rows) - 1
    for row in plain:
        number = int(row["prompt_id"].split("-")[1]) - 1
        assert row["rejected"][1]["content"] == f"No {number}." and row["label_type"] == "human"
        assert row["chosen"][1]["content"] == TABLE[number]["Answer"]
        assert row["metadata"]["golden_answer"] == f"Rest {number}."


def test_what_is_left_out_is_counted_with_its_lines(capsys: pytest.CaptureFixture) -> None:
    bad = [TABLE[0], {"Question": "Why?", "Answer": " "}, {"Question": None, "Answer": "So."}]
    bad += [{"Question": ["Why?"], "Answer": "So."}]
    assert import_rows(TABLE + bad) == 0
    shown = capsys.readouterr().out
    assert "table: 64 rows (JSON), 60 of them sound" in shown
    for line in (
        "1 with equal to an earlier row (line 61)",
        "1 with no answer (line 62)",
        "1 with no question (line 63)",
        "1 with the question is not text (line 64)",
    ):
        assert f"left out: {line}" in shown
    assert "labelled_by: code" in shown and "medqa preset files" in shown and len(shown.splitlines()) < 24


def test_multiple_choice_questions_are_exams() -> None:
    table = [
        {"Question": f"Which {number}?\nA. one\nB. two\nC. three", "Answer": f"B. two is right in {number}."}
        for number in range(40)
    ]
    assert import_rows([row | {"Gold": "B"} for row in table], "--reference", "Gold") == 0
    assert {row["type"] for row in written("sft.jsonl")} == {"Exam"}
    loaded = load_medical_data(Path("data/raw"), data_params(near_duplicate=None, question_kinds=["exam"]), 0)
    assert not loaded.quarantine and {row.gold for row in loaded.held_out} == {"B"}


def test_files_are_replaced_by_force_alone_and_never_in_part(capsys: pytest.CaptureFixture) -> None:
    assert import_rows(TABLE) == 0
    before = {name: Path("data/raw", name).read_bytes() for name in NAMES}
    assert import_rows(TABLE, "--seed", "1") == 1
    assert "data/raw has sft.jsonl, " in capsys.readouterr().err
    same = [row | {"Answer": "Yes."} for row in TABLE]  # no other answer to make a rejected one of
    assert import_rows(same, "--force") == 1 and "no row is left for preference_" in capsys.readouterr().err
    assert {name: Path("data/raw", name).read_bytes() for name in NAMES} == before
    assert sorted(path.name for path in Path("data/raw").iterdir()) == sorted(NAMES)
    assert import_rows(TABLE, "--force") == 0
    assert {name: Path("data/raw", name).read_bytes() for name in NAMES} == before
    assert import_rows(TABLE, "--force", "--seed", "1") == 0 != before
    assert Path("data/raw/sft.jsonl").read_bytes() != before["sft.jsonl"]


MISTAKES: dict[str, tuple[bytes | None, tuple[str, ...], str]] = {
    "no file": (None, (), "is not there"),
    "empty": (b" \n", (), "is empty"),
    "header alone": (b"Question,Answer\n", (), "no row under a line of column names"),
    "xlsx": (b"PK\x03\x04\x14\0", (), "is an Excel workbook or a zip archive; in Excel save it as CSV UTF-8"),
    "HTML": (b"<!doctype html><html>", (), "is an HTML or XML page"),
    "binary": (b"\x00\x01\x02\x03" * 9, (), "binary data"),
    "torn gzip": (gzip.compress(b"Question,Answer\na,b\n")[:20], (), "no gzip file that can be read"),
    "one column": (b"Question\nWhy?\n", (), "the only column is 'Question'"),
    "no such column": (b"Q,A\nWhy?,So.\n", (), "--question 'Question' is no column; there are Q, A"),
    "no such option": (
        b"Question,Answer\nWhy?,So.\n",
        ("--labelled-by", "Who"),
        "--labelled-by 'Who' is no column; there are Question, Answer",
    ),
    "the same column": (b"Question,Answer\nWhy?,So.\n", ("--rejected", "Answer"), "different columns"),
    "too few": (b"Question,Answer\nWhy?,So.\n", (), "1 different questions are too few"),
    "shares": (csv_text(",", "\n").encode(), ("--dev", "0.9"), "leave a rest for SFT"),
    "no share": (csv_text(",", "\n").encode(), ("--test", "0"), "must be shares above 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture, name: str) -> None:
    content, options, message = MISTAKES[name]
    if content is not None:
        Path("table").write_bytes(content)
    assert main(["import", "table", *COLUMNS, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not Path("data").exists()
