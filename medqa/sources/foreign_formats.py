"""What people bring that is no row of UltraMedical: kinds of files and shapes of rows, by name, and what to
do.
"""

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
# Of each shape the keys that tell it, the most telling first.
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
_WANTED = {
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


def file(head: bytes) -> str:
    """What a file is, by its first bytes, and what to do; '' if it may hold rows of JSON."""
    what = next((text for magic, text in _MAGIC.items() if head.startswith(magic)), "")
    if not what and (head.startswith(_UTF16) or re.match(rb"[\[{]\0|\0+[\[{]", head)):
        what = "UTF-16 or UTF-32 text: save it as UTF-8"
    if not what and b"\0" in head and not head.startswith((b"{", b"[")):
        what = (
            f"a tar archive: {_UNPACK}"
            if head[257:262] == b"ustar"
            else "binary data: it should hold rows of JSON"
        )
    if not what and head.startswith(b"<"):
        what = "an HTML or XML page: a download page or a refusal is often saved in place of the file; fetch the file"
    if not what and re.match(rb"\[?\s*\{\s*'", head):
        what = "Python's notation of objects, not JSON: write each row with json.dumps"
    if what:
        return f"is {what}"
    lines = [line.strip() for line in head.decode("utf-8", "replace").splitlines() if line.strip()]
    return "" if not lines or any(map(_is_json, lines[:1])) else _text(lines)


def _is_json(line: str) -> bool:
    """Whether a line may belong to JSON, torn or not."""
    if line.startswith(("{", "[")):
        return True
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _text(lines: list[str]) -> str:
    """What text is whose first line is no JSON; '' if a later line is."""
    first = lines[0]
    if any(_is_json(line) and not line.startswith("[") for line in lines[1:]):
        return ""
    if _TABLE.fullmatch(first):
        return f"is a table in CSV or TSV (columns {first[:80]!r}), not JSON: {_HOW}"
    return f"is no JSON, its first line is {first[:80]!r}: {_HOW}"


def torn(why: str) -> str:
    """What to do about a file of which many rows are torn; '' if nothing is known."""
    return "is not in UTF-8: save it as UTF-8" if why == "invalid UTF-8" else ""


def rows(row: Any, wanted: str) -> str:
    """What a row that is not of the format `wanted` is, as the end of a sentence on its file; '' if it seems
    to be.
    """
    needed = _WANTED[wanted]
    ours = f"not rows of {wanted} ({', '.join(needed)}): {_HOW}"
    if not isinstance(row, dict):
        return f"holds {_TYPES.get(type(row), 'other values')}, {ours}"
    keys = ", ".join(list(map(str, row))[:6])[:80]
    kinds = set(map(type, row.values()))
    if kinds == {dict} or (kinds and kinds <= {dict, list} and not _shape(row, wanted)):
        return f"is one object over many rows (keys {keys}), {ours}"
    if all(key in row for key in needed):
        return _turns(row, wanted)
    shape = _shape(row, wanted)
    lists = [
        key
        for key, value in row.items()
        if isinstance(value, list) and any(isinstance(of, dict) for of in value)
    ]
    if len(lists) == 1 and not shape:
        return f"is an object that holds rows under {lists[0]}: write that list alone to the file"
    return f"holds rows of {shape or keys or 'no key'}, {ours}"


def _shape(row: dict[str, Any], wanted: str) -> str:
    """The name and the keys of a row's shape; '' if it is of no known one, or of `wanted`."""
    match = (
        f"{name} ({', '.join(keys)})"
        for name, keys in _SHAPES
        if name != wanted and all(key in row for key in keys)
    )
    return next(match, "")


def _turns(row: dict[str, Any], wanted: str) -> str:
    """How the turns of a row with the keys of `wanted` differ from its turns; '' if they do not."""
    at, role, content, *roles = _TURNS[wanted]
    if isinstance(row[at], str) and row[at].lstrip().startswith("["):
        return ""  # stored as JSON text, which is read
    turns = row[at] if isinstance(row[at], list) else []
    if turns and all(isinstance(turn, dict) and {role, content} <= turn.keys() for turn in turns):
        odd = sorted({str(turn[role]) for turn in turns} - {*roles, "system"})
        return f"names the roles {', '.join(odd)} in {at}, not {' and '.join(roles)}: {_HOW}" if odd else ""
    return f"has no list of turns with {role} and {content} under {at}: {_HOW}"
