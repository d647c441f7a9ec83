"""Rows in UltraMedical's two published formats, for tests to write to files and to damage."""

import gzip
import json
from pathlib import Path
from typing import Any

OPTIONS = ("aspirin", "statins", "surgery", "rest")
EXAM = "Which treats angina?\n" + "\n".join(
    f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)
)


def sft_row(
    row_id: str, prompt: str, text: str = "Rest.", kind: str = "Open-End", **more: Any
) -> dict[str, Any]:
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": text}]
    return {"id": row_id, "type": kind, "conversations": turns, "answer": None, "score": None} | more


def preference_row(
    row_id: str,
    prompt: str,
    chosen: str = "Rest.",
    rejected: str = "Run.",
    label_type: str = "easy",
    **metadata: Any,
) -> dict[str, Any]:
    def turns(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    return {
        "prompt_id": row_id,
        "label_type": label_type,
        "prompt": prompt,
        "chosen": turns(chosen),
        "rejected": turns(rejected),
        "metadata": {"golden_answer": None, "chosen": {"model": "x"}, "rejected": {"model": "y"}} | metadata,
    }


def write_lines(path: Path, rows: list[Any]) -> Path:
    """JSON lines; a row that is bytes is written as it is."""
    path.write_bytes(
        b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    )
    return path


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows in the format of the file's name: .json (`pretty` indented) or .jsonl, also .gz, or .parquet."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    indent = 2 if "pretty" in name else None
    lines = [
        row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False, indent=indent).encode()
        for row in rows
    ]
    content = (
        b"[" + b",\n".join(lines) + b"]"
        if name.endswith(".json")
        else b"".join(line + b"\n" for line in lines)
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
