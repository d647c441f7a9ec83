"""Where a run's results come from: its stages with what they read and write, and its files of rows."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

DIGITS = 12  # hexadecimal digits of a SHA-256 that are shown
_PARAM = re.compile(r"\$\{([\w.]+)\}")
_CODE = ("medqa/", "stages/")


def stages(pipeline: Path, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a dvc.yaml, each after those whose outputs it reads, with what each reads and writes.

    `params` has the parameters that the paths name. Code is left out, and the stage `report` itself.
    """
    expanded = []
    for name, stage in yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"].items():
        items = stage.get("foreach", [None])
        for item in _value(items[2:-1], params) if isinstance(items, str) else items:
            expanded.append(_stage(name, item, stage["do"] if "foreach" in stage else stage, params))
    return _ordered([stage for stage in expanded if stage["name"] != "report"])


def _stage(name: str, item: str | None, stage: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    values = params | {"item": item, "key": item}

    def paths(*kinds: str) -> list[str]:
        entries = [entry for kind in kinds for entry in stage.get(kind, [])]
        names = [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]
        return [_PARAM.sub(lambda match: str(_value(match[1], values)), path) for path in names]

    return {
        "name": name if item is None else f"{name}@{item}",
        "description": stage.get("desc", ""),
        "reads": [path for path in paths("deps") if path == params["corpus"] or not path.startswith(_CODE)],
        "writes": paths("outs", "metrics", "plots"),
    }


def _value(name: str, values: dict[str, Any]) -> Any:
    """The value under a dotted name."""
    value: Any = values
    for part in name.split("."):
        value = value[part]
    return value


def _ordered(remaining: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages, each after those that it needs; apart from that in their own order."""
    ordered = []
    while remaining:
        missing = {path for stage in remaining for path in stage["writes"]}
        ready = next((stage for stage in remaining if not missing.intersection(stage["reads"])), remaining[0])
        ordered.append(ready)
        remaining = [stage for stage in remaining if stage is not ready]
    return ordered


def files(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, bytes and short SHA-256 of JSON lines files, counted from the files themselves."""
    return [{"name": name, **_file(folder / f"{name}.jsonl")} for name in names]


def _file(path: Path) -> dict[str, Any]:
    digest, rows = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            rows += block.count(b"\n")
    return {"rows": rows, "sha256": digest.hexdigest()[:DIGITS], "bytes": path.stat().st_size}
