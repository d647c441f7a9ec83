"""What people bring that is no row of UltraMedical: kinds of files and shapes of rows, with advice."""

import json
import re
from typing import Any

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
_UNPACK = "unpack it and name the file inside"
_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer in place of the data: run `git lfs pull`",
    b"PK\x03\x04": f"a zip archive or an Excel sheet: {_UNPACK}, or save the sheet's rows as JSON lines",
    b"\xd0\xcf\x11\xe0": "an Excel sheet: save its rows as JSON lines",
    b"7z\xbc\xaf": f"a 7z archive: {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed by zstd: {_UNPACK}, or use gzip",
    b"BZh": f"compressed by bzip2: {_UNPACK}, or use gzip",
    b"\xfd7zXZ": f"compressed by xz: {_UNPACK}, or use gzip",
    GZIP: f"compressed twice: {_UNPACK}",
    PARQUET: f"a gzipped parquet file: {_UNPACK}",
    b"ARROW1": "an Arrow file: save it as parquet",
    b"\xff\xff\xff\xff": "an Arrow stream: save it as parquet",
    b"SQLite format 3": "an SQLite database: write its rows as JSON lines",
    b"%PDF": "a PDF file: it holds no rows",
    b"\x80": "a pickle, which can run code when read: write its rows as JSON lines",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_COLUMN = r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;|\"'{\[:][^,;|\t\"'{\[:\n]*)"
_TABLE = re.compile(rf"{_COLUMN}(?:[,;|\t]{_COLUMN})+\s*")
# The keys that identify each shape, the most specific shape first.
_SHAPES = (
    ("UltraMedical-Preference", ("label_type", "chosen", "rejected")),
    ("MedMCQA", ("question", "opa", "opb", "cop")),
    ("MedQA", ("question", "options", "answer_idx")),
    ("MedQA", ("question", "options", "answer")),
    ("PubMedQA", ("question", "context", "long_answer")),
    ("PubMedQA", ("QUESTION", "CONTEXTS")),
    ("MMLU", ("question", "choices", "answer")),
    ("UltraMedical", ("type", "conversations")),
    ("ShareGPT", ("conversations",)),
    ("OpenAI's messages", ("messages",)),
    ("Alpaca", ("instruction", "output")),
    ("preferences without labels", ("prompt", "chosen", "rejected")),
    ("preferences without prompts", ("chosen", "rejected")),
    ("prompts and completions", ("prompt", "completion")),
    ("prompts and responses", ("prompt", "response")),
    ("inputs and outputs", ("input", "output")),
    ("questions and answers", ("question", "answer")),
    ("the Hub's data set viewer", ("row_idx", "row")),
    ("the Hub's data set viewer", ("features", "rows")),
    ("running text", ("text",)),
)
_KEYS = {
    "UltraMedical": ("id", "type", "conversations"),
    "UltraMedical-Preference": ("prompt_id", "label_type", "prompt", "chosen", "rejected"),
}
_TURNS = {
    "UltraMedical": ("conversations", "from", "value", "human", "gpt"),
    "UltraMedical-Preference": ("chosen", "role", "content", "user", "assistant"),
}
_TYPES = {
    list: "lists",
    str: "texts",
    int: "numbers",
    float: "numbers",
    type(None): "nulls",
    bool: "truth values",
}
_HOW = "write each row as data/raw/README.md shows"


def describe_file(head: bytes) -> str:
    """What a file is by its first bytes, with advice: the end of a sentence; '' if it may hold JSON rows."""
    magic = next((magic for magic in _MAGIC if head.startswith(magic)), None)
    if kind := _MAGIC[magic] if magic else _kind_of_text(head):
        return f"is {kind}"
    lines = [line.strip() for line in head.decode("utf-8", "replace").splitlines() if line.strip()]
    return "" if not lines or _may_be_json(lines[0]) else _describe_text(lines)


def _kind_of_text(head: bytes) -> str:
    """What a file is that no magic number identifies; '' if it may be text with rows."""
    if head.startswith(_UTF16) or re.match(rb"[\[{]\0|\0+[\[{]", head):
        return "UTF-16 or UTF-32 text: save it as UTF-8"
    if b"\0" in head and not head.startswith((b"{", b"[")):
        is_tar = head[257:262] == b"ustar"
        return f"a tar archive: {_UNPACK}" if is_tar else "binary data: it should hold rows of JSON"
    if head.startswith(b"<"):
        how = "a download page or a refusal is often saved in place of the file; fetch the file"
        return f"an HTML or XML page: {how}"
    if re.match(rb"\[?\s*\{\s*'", head):
        return "Python's notation of objects, not JSON: write each row with json.dumps"
    return ""


def _may_be_json(line: str) -> bool:
    """Whether a line may belong to JSON, torn or not."""
    if line.startswith(("{", "[")):
        return True
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _describe_text(lines: list[str]) -> str:
    """What a text is whose first line is no JSON; '' if a later line is JSON."""
    first = lines[0]
    if any(_may_be_json(line) and not line.startswith("[") for line in lines[1:]):
        return ""
    if _TABLE.fullmatch(first):
        return f"is a table in CSV or TSV (columns {first[:80]!r}), not JSON: {_HOW}"
    return f"is no JSON, its first line is {first[:80]!r}: {_HOW}"


def describe_row(row: Any, expected: str) -> str:
    """What a row is whose format is not `expected`: the end of a sentence; '' if the format seems right."""
    keys = _KEYS[expected]
    advice = f"not rows of {expected} ({', '.join(keys)}): {_HOW}"
    if not isinstance(row, dict):
        return f"holds {_TYPES.get(type(row), 'other values')}, {advice}"
    row_keys = ", ".join(list(map(str, row))[:6])[:80]
    shape = _shape(row, expected)
    types = set(map(type, row.values()))
    if types == {dict} or (types and types <= {dict, list} and not shape):
        return f"is one object over many rows (keys {row_keys}), {advice}"
    if all(key in row for key in keys):
        return _describe_turns(row, expected)
    lists = [key for key, value in row.items() if isinstance(value, list) and any(map(_is_object, value))]
    if len(lists) == 1 and not shape:
        return f"is an object that holds rows under {lists[0]}: write that list alone to the file"
    return f"holds rows of {shape or row_keys or 'no key'}, {advice}"


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _shape(row: dict[str, Any], expected: str) -> str:
    """The name and the keys of a row's shape; '' if the shape is unknown or the expected one."""
    for name, keys in _SHAPES:
        if name != expected and all(key in row for key in keys):
            return f"{name} ({', '.join(keys)})"
    return ""


def _describe_turns(row: dict[str, Any], expected: str) -> str:
    """How the turns of a row that has all keys differ from the expected turns; '' if they do not."""
    key, role, content, *roles = _TURNS[expected]
    turns = row[key]
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        return ""  # stored as JSON text, which is read
    if (
        isinstance(turns, list)
        and turns
        and all(isinstance(turn, dict) and {role, content} <= turn.keys() for turn in turns)
    ):
        odd = sorted({str(turn[role]) for turn in turns} - {*roles, "system"})
        return f"names the roles {', '.join(odd)} in {key}, not {' and '.join(roles)}: {_HOW}" if odd else ""
    return f"has no list of turns with {role} and {content} under {key}: {_HOW}"
