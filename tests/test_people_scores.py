"""medqa.people_scores: what is written is read, and each bad line is one sentence that names it."""

import re
from pathlib import Path

import pytest

from medqa import people_scores
from medqa.people_scores import COLUMNS, PersonScore, SheetRow
from medqa.runtime.errors import UserError

HEADER = ",".join(COLUMNS)
TEXTS = (
    "Plain.",
    'With "quotes", commas; and a ; semicolon',
    "Two\nlines\r\nof it",
    "=1+1",
    "- a list\n- of two",
    "@import",
    "'quoted'",
    "漢字 🩺 مرحبا",
    "",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [SheetRow(f"Open,q-{n}", f"What, {n}?", text, text) for n, text in enumerate(TEXTS)]
    people_scores.write(tmp_path / "anna.csv", rows)
    expected = [PersonScore(row.id, row.answer, None, "anna") for row in rows]
    assert people_scores.read(tmp_path / "anna.csv") == expected
    # A spreadsheet takes no text for a formula.
    content = (tmp_path / "anna.csv").read_text(encoding="utf-8-sig")
    assert not re.search(r'(^|[,"])[=@]', content, re.MULTILINE)


def test_what_spreadsheets_change_is_the_same_answer() -> None:
    assert people_scores.key("q1 ", "Two\r\nlines  of\0 it\n") == people_scores.key("q1", "Two\nlines of it")
    assert people_scores.key("q1", "a < b") != people_scores.key("q1", "a > b")


def test_a_folder_may_hold_several_sheets_or_none(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("How to fill in a sheet.")
    assert people_scores.read_all(tmp_path) == []
    for person, score in (("ben", "1"), ("anna", "0.5")):
        (tmp_path / f"{person}.csv").write_text(f"{HEADER}\nq1,?,r,yes,{score}\n\n,,,,\nq2,?,r,no,\n")
    scores = people_scores.read_all(tmp_path)
    assert scores == [
        PersonScore("q1", "yes", 0.5, "anna"),
        PersonScore("q2", "no", None, "anna"),
        PersonScore("q1", "yes", 1.0, "ben"),
        PersonScore("q2", "no", None, "ben"),
    ]
    assert people_scores.mean_scores(scores) == {("q1", "yes"): 0.75}


BAD = {
    "": "is empty; delete it",
    "id;question;reference;answer;score\n": "line 1: must be the header id,question",
    "q1,?,r,yes,1\n": "line 1: must be the header id,question",
    f"{HEADER}\nq1,?,r,yes,1\nq2,?,r,no,1.5\n": "line 3: score '1.5' must be a number from 0 to 1",
    f'{HEADER}\nq1,?,r,"two\nlines",1\nq2,?,r,no,-0.1\n': "line 4: score '-0.1' must be",
    f'{HEADER}\nq1,?,r,yes,"0,5"\n': "line 2: score '0,5' must be a number from 0 to 1 with a decimal point",
    f"{HEADER}\nq1,?,r,yes,good\n": "line 2: score 'good' must be",
    f"{HEADER}\nq1,?,r,yes,nan\n": "line 2: score 'nan' must be",
    f"{HEADER}\nq1,?,r,yes\n": "line 2: has 4 cells; must have 5 between commas",
    f"{HEADER}\nq1,?,r,yes,1\nq2,?,r,no,1\nq1,?,r,yes,0\n": "line 4: repeats line 2;",
    f'{HEADER}\nq1,?,r,"yes,1\n': "line 2: is no CSV (unexpected end of data)",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=BAD.values())
def test_a_bad_line_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "anna.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}[:,] {re.escape(message)}") as raised:
        people_scores.read_all(tmp_path)
    assert "\n" not in str(raised.value)


def test_another_encoding_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "anna.csv").write_bytes(f"{HEADER}\nq1,?,r,naïve,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not in UTF-8; save the sheet as CSV in UTF-8$"):
        people_scores.read_all(tmp_path)
