"""medqa.sources: every kind of file gives the same rows, and what is torn costs the torn rows alone."""

import gzip
import json
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from fake_rows import sft_row, write_lines, write_rows

from medqa.runtime.errors import UserError
from medqa.sources import read_rows

ROWS = [
    sft_row(f"Open,{n}", f"What is caf\u00e9 {n}? \U0001f912 [x], {{y}}", '"Rest", \\ and "tea"]')
    for n in range(40)
]


@pytest.mark.parametrize("chunk", [16, 64, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "pretty.json", "a.jsonl", "a.json.gz", "a.jsonl.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, chunk: int) -> None:
    read = list(read_rows(write_rows(tmp_path / name, ROWS), chunk))
    assert [raw.row for raw in read] == ROWS
    assert [(raw.file, raw.line) for raw in read] == [(name, line) for line in range(1, 41)]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is not there"), (b"", "is empty"), (b" \n", "is empty")]
)
def test_no_rows_are_a_user_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_rows(path))


@pytest.mark.parametrize("content", [b"PAR1 no parquet", b"PAR1"])
def test_a_parquet_file_without_its_end_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet is no parquet file that can be read") as error:
        list(read_rows(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"[] no gzip", gzip.compress(b"[1]")[:12]], ids=["other", "torn in its head"]
)
def test_a_gzip_file_without_a_row_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json\.gz is no gzip file that can be read"):
        list(read_rows(path))


def summaries(path: Path, chunk: int = 1 << 20) -> list[tuple[int, str, str]]:
    """Of every row its number, its id or the beginning of its text, and its error."""
    rows = read_rows(path, chunk)
    return [(row.line, row.row[:20] if row.error else row.row.get("id", ""), row.error) for row in rows]


@pytest.mark.parametrize(
    "name", ["a.json", "pretty.json", "a.jsonl", "a.json.gz", "pretty.json.gz", "a.jsonl.gz"]
)
@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_of_a_file_that_ends_too_early_the_whole_rows_are_kept(tmp_path: Path, name: str, chunk: int) -> None:
    rng = random.Random(0)
    rows = [sft_row(f"{n}", "".join(rng.choices("abcdefgh ", k=500))) for n in range(300)]
    path = write_rows(tmp_path / name, rows)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    *whole, torn = read_rows(path, chunk)
    assert 120 <= len(whole) <= 220
    assert [raw.row for raw in whole] == rows[: len(whole)]
    assert (torn.line, torn.error) == (len(whole) + 1, "torn gzip" if name.endswith("gz") else "torn JSON")


@pytest.mark.parametrize("name", ["a.json.gz", "pretty.json.gz", "a.jsonl.gz"])
def test_of_a_small_gzip_file_that_ends_too_early_the_whole_rows_are_kept(tmp_path: Path, name: str) -> None:
    rng = random.Random(0)
    path = write_rows(
        tmp_path / name, [sft_row(f"{n}", "".join(rng.choices("abcdefgh ", k=500))) for n in range(9)]
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    *whole, torn = read_rows(path)
    assert len(whole) >= 4 and torn.error == "torn gzip"


def test_a_gzip_file_that_is_damaged_within_keeps_what_stands_before(tmp_path: Path) -> None:
    rows = [sft_row(f"{random.Random(n).random()}", "Why?") for n in range(5000)]
    path = write_rows(tmp_path / "a.jsonl.gz", rows)
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 50] = b"\xff" * 50
    path.write_bytes(content)
    *whole, torn = read_rows(path)
    assert torn.error == "torn gzip"
    assert len(whole) > 1000 and [raw.row for raw in whole[:1000]] == rows[:1000]


TORN = [
    (b'{"id": "x"', "torn JSON"),
    (b'{"id": "x", "type": }', "torn JSON"),
    (b"oops", "torn JSON"),
    (b'{"id": "x", "n": ' + b"9" * 5000 + b"}", "torn JSON"),
    (b"[" * 100_000, "torn JSON"),
    (b'{"id": "\0"}', "torn JSON"),
    (b'{"id": "\xff\xfe"}', "invalid UTF-8"),
    (rb'{"id": "half a character: \ud83d"}', "invalid UTF-8"),
]
NAMES = [
    "cut",
    "no value",
    "no JSON",
    "too long a number",
    "too deep",
    "a zero byte",
    "invalid UTF-8",
    "half a surrogate pair",
]


@pytest.mark.parametrize(("raw", "reason"), TORN, ids=NAMES)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_torn_line_costs_that_line_alone(tmp_path: Path, raw: bytes, reason: str, packed: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [ROWS[0], raw, b"", ROWS[1]])
    if packed:
        path = path.rename(tmp_path / "a.jsonl.gz")
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert [(line, torn) for line, _, torn in summaries(path)] == [(1, ""), (2, reason), (4, "")]


@pytest.mark.parametrize(("raw", "reason"), TORN, ids=NAMES)
@pytest.mark.parametrize("chunk", [64, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "pretty.json", "a.json.gz"])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_torn_element_costs_that_element_alone(
    tmp_path: Path, raw: bytes, reason: str, chunk: int, name: str, position: int
) -> None:
    elements = [json.dumps(row, indent=2 if "pretty" in name else None).encode() for row in ROWS[:4]]
    elements.insert(position, raw)
    content = b"[\n" + b",\n".join(elements) + b"\n]"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    read = summaries(tmp_path / name, chunk)
    assert [torn for *_, torn in read] == ["" if n != position else reason for n in range(5)]
    assert [row_id for _, row_id, torn in read if not torn] == [row["id"] for row in ROWS[:4]]
    assert [line for line, *_ in read] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("cut", range(1, 201, 10))
def test_an_element_cut_anywhere_costs_no_more_than_itself(tmp_path: Path, cut: int) -> None:
    elements = [json.dumps(row) for row in ROWS[:5]]
    assert len(elements[2]) > 205
    elements[2] = elements[2][:cut]
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join(elements) + "]")
    assert [row_id for _, row_id, torn in summaries(path) if not torn] == [
        ROWS[n]["id"] for n in (0, 1, 3, 4)
    ]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"[", [(1, "", "torn JSON")]),
        (b"[]", []),
        (b'[{"id": "1"}, ', [(1, "1", ""), (2, "", "torn JSON")]),
        (b'[{"id": "1"}', [(1, "1", ""), (2, "", "torn JSON")]),
        (b'[{"id": "1"}, {"a": 1,}]', [(1, "1", ""), (2, '{"a": 1,}]', "torn JSON")]),
        (b'\xef\xbb\xbf[{"id": "1"}]', [(1, "1", "")]),
        (b'\xef\xbb\xbf{"id": "1"}\n', [(1, "1", "")]),
    ],
)
def test_the_end_of_an_array(tmp_path: Path, content: bytes, rows: list[tuple[int, str, str]]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert summaries(path) == rows


def test_invalid_utf8_in_parquet_costs_that_row_alone(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = pyarrow.array([b"a", b"b", b"\xff\xfe", b"d"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"id": texts}), tmp_path / "a.parquet")
    read = [(raw.line, raw.row, raw.error) for raw in read_rows(tmp_path / "a.parquet")]
    assert read == [
        (1, {"id": "a"}, ""),
        (2, {"id": "b"}, ""),
        (3, None, "invalid UTF-8"),
        (4, {"id": "d"}, ""),
    ]


@pytest.mark.parametrize("torn", [False, True], ids=["sound", "torn in the middle"])
def test_an_array_is_read_in_linear_time_and_little_memory(tmp_path: Path, torn: bool) -> None:
    def seconds(count: int) -> float:
        path = tmp_path / "a.json"
        elements = [json.dumps(sft_row(f"{n}", "Why? " * 50)) for n in range(count)]
        if torn:
            elements[count // 2] = elements[count // 2][:100]
        path.write_text("[" + ", ".join(elements) + "]")
        started = time.process_time()
        assert sum(1 for _ in read_rows(path)) == count
        return time.process_time() - started

    seconds(1000)
    assert seconds(32_000) < 16 * max(seconds(4_000), 0.01)  # 64 times as long if it were quadratic
    tracemalloc.start()
    for _ in read_rows(tmp_path / "a.json"):
        pass
    assert tracemalloc.get_traced_memory()[1] < 8 << 20  # bytes; 8 chunks
    tracemalloc.stop()


def test_an_element_of_many_chunks_is_not_decoded_again_for_each_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([sft_row("1", "Why? " * 1_000_000)]))
    started = time.process_time()
    json.loads(path.read_text())
    once = time.process_time() - started
    assert summaries(path, 1 << 12) == [(1, "1", "")]
    assert time.process_time() - started < 50 * max(once, 0.02)  # 600 times, if it were


SIX = ROWS[:6]
LINES = [json.dumps(row) for row in SIX]
FIRST, SECOND = json.dumps(SIX[:3]), json.dumps(SIX[3:])
SEQUENCES = {
    "an array a line": f"{FIRST}\n\n{SECOND}\n",
    "arrays without a space": FIRST + SECOND,
    "indented arrays": json.dumps(SIX[:3], indent=2) + json.dumps(SIX[3:], indent=1),
    "arrays with a byte order mark each": f"\ufeff{FIRST}\n\ufeff{SECOND}",
    "an array, then lines": "\n".join([FIRST, *LINES[3:]]),
    "lines, then an array": "\n".join([*LINES[:3], SECOND]),
    "an array of arrays": f"[{FIRST}, {SECOND}]",
    "an empty array among others": f"[]\n{FIRST}\n[]\n{SECOND}",
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in SIX),
    "objects without a space": "".join(LINES),
    "objects with commas": ",\n".join(LINES) + ",",
    "lines ended as on an old Mac": "\r".join(LINES),
    "an object with a list": json.dumps({"version": "1.0", "data": SIX, "total": 6}),
    "an indented object with a list": json.dumps({"rows": SIX}, indent=2),
    "an object with a list a line": "".join(json.dumps({"data": rows}) + "\n" for rows in (SIX[:3], SIX[3:])),
}


@pytest.mark.parametrize("text", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("chunk", [16, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_a_sequence_of_arrays_and_objects_gives_all_rows(
    tmp_path: Path, text: str, chunk: int, packed: bool
) -> None:
    path = tmp_path / "a.json"  # packed or not: its first bytes tell
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert [(raw.line, raw.row, raw.error) for raw in read_rows(path, chunk)] == [
        (line, row, "") for line, row in enumerate(SIX, 1)
    ]


@pytest.mark.parametrize(
    ("text", "sound", "rows"),
    [
        (f"{FIRST}\noops\n{SECOND}", 6, [(3, SIX[2]["id"], ""), (4, "oops\n[" + SECOND[1:15], "torn JSON")]),
        (f"{FIRST}\nThe end.", 3, [(3, SIX[2]["id"], ""), (4, "The end.", "torn JSON")]),
        (f"{FIRST[:-40]}\n{SECOND}", 5, [(3, LINES[2][:20], "torn JSON"), (4, SIX[3]["id"], "")]),
        (f"{LINES[0]}{LINES[1][:-9]}\n", 1, [(1, SIX[0]["id"], ""), (2, LINES[1][:20], "torn JSON")]),
    ],
)
def test_what_is_torn_among_them_costs_itself(
    tmp_path: Path, text: str, sound: int, rows: list[tuple[int, str, str]]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    read = summaries(path)
    assert all(row in read for row in rows)
    assert [torn for *_, torn in read].count("") == sound == len(read) - 1


def test_rows_are_found_behind_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (FIRST + SECOND, "\n".join(LINES)):
        path.write_text("\n" * 200_000 + text)
        assert [raw.row for raw in read_rows(path)] == SIX


def test_lines_behind_a_list_are_counted_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([LINES[0], f"[{LINES[1]}, {LINES[2]}]", "", "{", LINES[3]]))
    assert [(line, torn) for line, _, torn in summaries(path)] == [
        (1, ""),
        (2, ""),
        (3, ""),
        (5, "torn JSON"),
        (6, ""),
    ]


FOREIGN = {
    "CSV": (b"id,type,conversations\n1,Open-End,x\n", "is a table in CSV or TSV"),
    "quoted CSV": (b'"id";"type"\n"1";"x"\n', "is a table in CSV or TSV"),
    "TSV": (b"id\ttype\n1\tx\n", "is a table in CSV or TSV"),
    "CSV with JSON": (b'id,conversations\n1,"[{""from"": ""human""}]"\n', "is a table in CSV or TSV"),
    "HTML": (b"\n<!DOCTYPE html><html></html>", "is an HTML or XML page"),
    "zip": (b"PK\x03\x04rest", "is a zip archive"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "UTF-16": ("\ufeff[{}]".encode("utf-16-le"), "is UTF-16"),
    "UTF-16 without its mark": ('{"a": 1}'.encode("utf-16-le"), "is UTF-16"),
    "Arrow": (b"ARROW1\0\0", "is an Arrow file: save it as parquet"),
    "zstd": (b"\x28\xb5\x2f\xfd\0", "compressed by zstd"),
    "tar": (b"a.json".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive"),
    "zeros": (b"\0" * 99, "is binary data"),
    "gzipped parquet": (gzip.compress(b"PAR1xx"), "is a gzipped parquet file"),
    "gzipped twice": (gzip.compress(gzip.compress(b"[]")), "is compressed twice"),
    "gzipped CSV": (gzip.compress(b"id,type\n1,x\n"), "is a table in CSV or TSV"),
    "Python": (b"[{'id': '1'}]", "is Python's notation"),
    "YAML": (b"- id: x\n  type: y\n", "is no JSON, its first line is '- id: x'"),
    "prose": (b"Gout hurts.\n", "is no JSON, its first line is 'Gout hurts.'"),
    "two lists": (
        b'{"train": [{"id": "1"}], "test": [{"id": "2"}]}',
        "an object that holds more than a list of rows",
    ),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, message: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(read_rows(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_parquet_file_may_have_another_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", SIX).rename(tmp_path / "a.json")
    assert [raw.row for raw in read_rows(path)] == SIX


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name the file in it"):
        list(read_rows(tmp_path))


def test_a_first_object_of_more_than_64_chunks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({str(n): SIX[0] for n in range(99)}))
    with pytest.raises(UserError, match="begins with a JSON object of more than"):
        list(read_rows(path, chunk_bytes=1 << 7))
