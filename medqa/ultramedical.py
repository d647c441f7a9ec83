"""UltraMedical's two published formats, as files: JSON lines, JSON arrays or parquet, also gzipped.

Every row comes out with its place in the file, either parsed or with the reason why it cannot be used.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.params import UserError
from medqa.text import LETTERS, normal, words

TYPES = {"open-end": "open", "exam": "exam", "literature": "literature"}
LABEL_TYPES = ("easy", "hard", "length", "human")
_OPTION = re.compile(r"^\s*\(?([A-J])[.):]\s*(.+)$", re.MULTILINE)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One raw row and where it stands. `row` is None where the text there is no JSON."""

    file: str
    line: int
    row: Any


@dataclass(frozen=True, order=True)
class Asked:
    """A question with one answer (the SFT format) or two (the preference format), as published."""

    id: str
    kind: str
    prompt: str
    chosen: str
    rejected: str
    label_type: str
    gold: str  # the right option's letter, or ''
    golden_text: str  # a golden answer in words, or ''
    key_points: tuple[str, ...]

    @property
    def key(self) -> str:
        return prompt_key(self.prompt)


def read(path: Path) -> Iterator[Source]:
    """The raw rows of a file, streamed. Raises UserError if it is not there, empty or torn for good."""
    if not path.is_file():
        raise UserError(
            f"{path} is not there; data.* in params.yaml names files relative to `corpus`, or absolute ones"
        )
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(64).lstrip()
            file.seek(0)
            if not head:
                raise UserError(f"{path} is empty; it should hold rows in UltraMedical's format")
            yield from _array(path, file) if head.startswith(b"[") else _lines(path, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no gzip file that can be read: {error}") from None


def sft(row: Any) -> Asked:
    """A row of UltraMedical. Raises ValueError with the reason if it cannot be used."""
    kind = TYPES.get(_text(row, "type").lower())
    if kind is None:
        raise ValueError("unknown type")
    prompt, answer = _turns(row.get("conversations"), "from", "value", "human", "gpt")
    gold = row.get("answer") if row.get("answer") in tuple(LETTERS) else ""
    return Asked(_text(row, "id"), kind, prompt, answer, "", "", gold, "", ())


def preference(row: Any) -> Asked:
    """A row of UltraMedical-Preference. Raises ValueError with the reason if it cannot be used."""
    label_type = _text(row, "label_type")
    if label_type not in LABEL_TYPES:
        raise ValueError("unknown label_type")
    prompt = _text(row, "prompt")
    texts = []
    for side in ("chosen", "rejected"):
        asked, answer = _turns(row.get(side), "role", "content", "user", "assistant")
        if normal(asked) != normal(prompt):
            raise ValueError("the prompt differs between columns")
        texts.append(answer)
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    golden = metadata.get("golden_answer") if isinstance(metadata.get("golden_answer"), str) else ""
    letter = golden.strip() if golden.strip() in tuple(LETTERS) else ""
    listed = metadata.get("key_points") if isinstance(metadata.get("key_points"), list) else []
    points = tuple(point for point in listed if isinstance(point, str) and words(point))
    kind = "exam" if letter or len(options(prompt)) >= 3 else "literature" if _has_context(row, prompt) else "open"
    text = "" if letter or not words(golden) else golden
    return Asked(_text(row, "prompt_id"), kind, prompt, *texts, label_type, letter, text, points)


def options(prompt: str) -> dict[str, str]:
    """The lettered options that stand on lines of their own in a prompt."""
    return {match[1]: match[2].strip() for match in _OPTION.finditer(prompt)}


def prompt_key(prompt: str) -> str:
    """The form in which two prompts are one: case, white space, punctuation and the order of the options folded."""
    found = options(prompt)
    if len(found) < 3:
        return normal(prompt)
    return " | ".join([normal(_OPTION.sub("", prompt)), *sorted(normal(option) for option in found.values())])


def _has_context(row: Any, prompt: str) -> bool:
    return prompt.lstrip().lower().startswith(("context:", "abstract:")) or str(row["prompt_id"]).startswith("PubMedQA")


def _text(row: Any, key: str) -> str:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if key not in row:
        raise ValueError(f"missing key {key}")
    if not isinstance(row[key], str):
        raise ValueError(f"{key} is not text")
    if not row[key].strip():
        raise ValueError(f"empty {key}")
    return row[key]


def _turns(turns: Any, role: str, content: str, asks: str, answers: str) -> tuple[str, str]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("turns are not a list of messages")
    spoken = [turn for turn in turns if turn.get(role) != "system"]
    if not any(turn.get(role) == answers for turn in spoken):
        raise ValueError(f"no {answers} turn")
    if [turn.get(role) for turn in spoken[:2]] != [asks, answers]:
        raise ValueError("wrong order of roles")
    texts = [turn.get(content) for turn in spoken[:2]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a turn is not text")
    if not all(words(text) for text in texts):
        raise ValueError("an empty turn")
    return texts[0], texts[1]


def _lines(path: Path, file: Any) -> Iterator[Source]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError:
                row = None
            yield Source(path.name, number, row if _sound(row) else None)


def _array(path: Path, file: Any) -> Iterator[Source]:
    # One element at a time: the real file is larger than the memory that this stage may take.
    decoder, number = json.JSONDecoder(), 0
    stream = _chunks(file)
    buffer = next(stream).lstrip()[1:]
    while True:
        buffer = buffer.lstrip(" \t\r\n,")
        try:
            if not buffer:
                raise json.JSONDecodeError("more is needed", "", 0)
            if buffer[0] == "]":
                return
            row, end = decoder.raw_decode(buffer)
        except json.JSONDecodeError:
            more = next(stream, "")
            if not more:
                raise UserError(f"{path} is torn after row {number}; fetch or write it again") from None
            buffer += more
            continue
        number += 1
        buffer = buffer[end:]
        yield Source(path.name, number, row if _sound(row) else None)


def _chunks(file: Any) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    while data := file.read(_CHUNK):
        yield decoder.decode(data)


def _sound(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path) -> Iterator[Source]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        batches = ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            yield Source(path.name, number, row)
    except ArrowInvalid as error:
        raise UserError(f"{path} is no parquet file that can be read: {error}") from None
