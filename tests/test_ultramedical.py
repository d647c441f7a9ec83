"""medqa.ultramedical: both formats out of every kind of file, and every damaged row with its reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from fake_rows import EXAM, OPTIONS, preference_row, sft_row, write_lines

from medqa import sources, ultramedical
from medqa.params import UserError

ROWS = [
    sft_row(f"Open,{n}", f"What is caf\u00e9 {n}? \U0001f912 [x], {{y}}", '"Rest", \\ and "tea"]') for n in range(40)
]


def written(path: Path, rows: list[Any]) -> Path:
    """The rows in the format that the file's name asks for."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=2 if "pretty" in name else None)
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(text.encode())
    return path


@pytest.mark.parametrize("chunk", [16, 64, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "pretty.json", "a.jsonl", "a.json.gz", "a.jsonl.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int
) -> None:
    monkeypatch.setattr(sources, "_CHUNK", chunk)
    read = list(sources.read(written(tmp_path / name, ROWS)))
    assert [source.row for source in read] == ROWS
    assert [(source.file, source.line) for source in read] == [(name, line) for line in range(1, 41)]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl.gz", "a.parquet"])
def test_a_file_that_ends_too_early_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, ROWS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name) as told:
        list(sources.read(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"[", b"[{}, ", b"[{}", b'[{}, {"a": 1,}]', b"[{}, oops, {}]"])
def test_a_torn_array_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is torn after row [01]; fetch or write it again"):
        list(sources.read(path))


@pytest.mark.parametrize(("content", "message"), [(None, "is not there"), (b"", "is empty"), (b" \n", "is empty")])
def test_no_rows_are_a_user_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(sources.read(path))


TORN = [b'{"id": "x"', b'{"id": "\xff\xfe"}', rb'{"id": "half a character: \ud83d"}']


@pytest.mark.parametrize("raw", TORN, ids=["torn", "invalid UTF-8", "half a surrogate pair"])
def test_a_torn_line_costs_that_line_alone(tmp_path: Path, raw: bytes) -> None:
    path = write_lines(tmp_path / "a.jsonl", [ROWS[0], raw, b"", ROWS[1]])
    read = list(sources.read(path))
    assert [(source.line, source.row) for source in read] == [(1, ROWS[0]), (2, None), (4, ROWS[1])]


@pytest.mark.parametrize("raw", TORN[1:], ids=["invalid UTF-8", "half a surrogate pair"])
def test_a_row_of_an_array_that_is_no_text_costs_that_row_alone(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": 1}, ' + raw + b', {"b": "\xc3\xa9"}]')
    assert [source.row for source in sources.read(path)] == [{"a": 1}, None, {"b": "\u00e9"}]


@pytest.mark.parametrize(
    ("row", "kind", "gold"),
    [
        (sft_row("1", "What is angina?"), "open", ""),
        (sft_row("1", EXAM, "A", "Exam", answer="A"), "exam", "A"),
        (sft_row("1", EXAM, "A", "Exam", answer="AB"), "exam", ""),
        (sft_row("1", EXAM, "A", "Exam", answer=["A"]), "exam", ""),
        (sft_row("1", "Context: x\nWhy?", "So.", "Literature", answer="So."), "literature", ""),
    ],
)
def test_sft(row: dict[str, Any], kind: str, gold: str) -> None:
    asked = ultramedical.sft(row)
    assert (asked.id, asked.kind, asked.gold) == ("1", kind, gold)
    assert (asked.prompt, asked.chosen) == tuple(turn["value"] for turn in row["conversations"])


@pytest.mark.parametrize(
    ("row", "kind", "gold", "golden_text", "points"),
    [
        (preference_row("1", "Why?"), "open", "", "", ()),
        (preference_row("1", "Why?", golden_answer="So.", key_points=["so", "", 3]), "open", "", "So.", ("so",)),
        (preference_row("1", "Why?", golden_answer="...", key_points="so"), "open", "", "", ()),
        (preference_row("1", "Why?", golden_answer=7, key_points=7), "open", "", "", ()),
        (preference_row("1", "Why?") | {"metadata": None}, "open", "", "", ()),
        (preference_row("1", EXAM, golden_answer=" B "), "exam", "B", "", ()),
        (preference_row("1", EXAM), "exam", "", "", ()),
        (preference_row("1", "Context: x\nWhy?"), "literature", "", "", ()),
        (preference_row("PubMedQA,1", "Why?"), "literature", "", "", ()),
    ],
)
def test_preference(row: dict[str, Any], kind: str, gold: str, golden_text: str, points: tuple[str, ...]) -> None:
    asked = ultramedical.preference(row)
    assert (asked.kind, asked.gold, asked.golden_text, asked.key_points) == (kind, gold, golden_text, points)
    assert (asked.chosen, asked.rejected, asked.label_type) == ("Rest.", "Run.", "easy")


def turns(*said: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in said]}


SFT = sft_row("1", "Why?")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "not a JSON object"),
        ([SFT], "not a JSON object"),
        ({key: value for key, value in SFT.items() if key != "id"}, "missing key id"),
        (SFT | {"id": 5}, "id is not text"),
        (SFT | {"id": " "}, "empty id"),
        (SFT | {"type": "Essay"}, "unknown type"),
        (SFT | {"conversations": "hello"}, "turns are not a list of messages"),
        (SFT | {"conversations": ["hello"]}, "turns are not a list of messages"),
        (SFT | turns(("human", "Why?")), "no gpt turn"),
        (SFT | turns(), "no gpt turn"),
        (SFT | turns(("gpt", "So."), ("human", "Why?")), "wrong order of roles"),
        (SFT | turns(("human", "Why?"), ("human", "Why?"), ("gpt", "So.")), "wrong order of roles"),
        (SFT | turns(("human", "Why?"), ("gpt", ["So."])), "a turn is not text"),
        (SFT | turns(("human", "Why?"), ("gpt", " ... ")), "an empty turn"),
        (SFT | turns(("human", ""), ("gpt", "So.")), "an empty turn"),
    ],
)
def test_a_damaged_sft_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        ultramedical.sft(row)


def test_a_system_turn_and_later_turns_are_passed_over() -> None:
    said = turns(("system", "Be brief."), ("human", "Why?"), ("gpt", "So."), ("human", "Sure?"), ("gpt", "Yes."))
    asked = ultramedical.sft(SFT | said)
    assert (asked.prompt, asked.chosen) == ("Why?", "So.")


PAIR = preference_row("1", "Why?")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (PAIR | {"label_type": "odd"}, "unknown label_type"),
        ({key: value for key, value in PAIR.items() if key != "rejected"}, "turns are not a list of messages"),
        (PAIR | {"prompt": "Why not?"}, "the prompt differs between columns"),
        (PAIR | {"rejected": preference_row("1", "When?")["rejected"]}, "the prompt differs between columns"),
        (PAIR | {"chosen": PAIR["chosen"][:1]}, "no assistant turn"),
        (PAIR | {"chosen": PAIR["chosen"][::-1]}, "wrong order of roles"),
        (PAIR | {"rejected": preference_row("1", "Why?", rejected="--")["rejected"]}, "an empty turn"),
        (PAIR | {"prompt": None}, "prompt is not text"),
    ],
)
def test_a_damaged_preference_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        ultramedical.preference(row)


def exam(stem: str, letters: str, options: tuple[str, ...], mark: str = ".") -> str:
    return "\n".join([stem, *(f"{letter}{mark} {option}" for letter, option in zip(letters, options, strict=True))])


@pytest.mark.parametrize(
    "other",
    [
        EXAM.upper(),
        EXAM.replace(" ", "  ").replace("\n", "\n\n  "),
        exam("Which treats angina", "ABCD", OPTIONS[::-1]),
        exam("Which treats angina?", "ABCD", OPTIONS, ")"),
        exam("Which treats angina?", "ABCD", OPTIONS).replace("A.", "(A)"),
    ],
    ids=["case", "space", "order of options", "brackets", "one bracket"],
)
def test_prompts_that_are_the_same_question_share_a_key(other: str) -> None:
    assert ultramedical.prompt_key(other) == ultramedical.prompt_key(EXAM)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("What is angina?", "what is  ANGINA"),
        ("What is type-2 diabetes?", "What is type 2 diabetes"),
    ],
)
def test_open_questions_fold_case_space_and_punctuation(one: str, two: str) -> None:
    assert ultramedical.prompt_key(one) == ultramedical.prompt_key(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("What is angina?", "What causes angina?"),
        ("What is type 1 diabetes?", "What is type 2 diabetes?"),
        ("Is rest or aspirin better?", "Is aspirin or rest better?"),  # no options: order is meaning
        (EXAM, EXAM.replace("rest", "oxygen")),
        (EXAM, EXAM.replace("angina", "asthma")),
        (EXAM, EXAM.split("\n")[0]),
    ],
)
def test_different_questions_stay_distinct(one: str, two: str) -> None:
    assert ultramedical.prompt_key(one) != ultramedical.prompt_key(two)
