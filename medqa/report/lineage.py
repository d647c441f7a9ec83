"""Where a run's results come from: stages in order, which models they were made with, and what the files
hold.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

SHORT = 12  # hexadecimal digits of a SHA-256 that are shown
_PARAM = re.compile(r"\$\{([\w.]+)\}")
_CODE = ("medqa/", "stages/")


def stages(pipeline: Path, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a dvc.yaml, each after those whose outputs it reads, with what each reads and writes.

    `shown` gives the parameters that its paths name. Code is left out, and the stage that writes the report
    itself.
    """
    found = []
    for name, stage in yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"].items():
        items = stage.get("foreach", [None])
        for item in _value(items[2:-1], shown) if isinstance(items, str) else items:
            found.append(_stage(name, item, stage["do"] if "foreach" in stage else stage, shown))
    return _ordered([stage for stage in found if stage["name"] != "report"])


def _stage(name: str, item: str | None, stage: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    known = shown | {"item": item, "key": item}

    def paths(*kinds: str) -> list[str]:
        entries = [entry for kind in kinds for entry in stage.get(kind, [])]
        named = [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]
        return [_PARAM.sub(lambda match: str(_value(match[1], known)), path) for path in named]

    return {
        "name": name if item is None else f"{name}@{item}",
        "says": stage.get("desc", ""),
        "reads": [path for path in paths("deps") if path == shown["corpus"] or not path.startswith(_CODE)],
        "writes": paths("outs", "metrics", "plots"),
    }


def _value(name: str, known: dict[str, Any]) -> Any:
    """What stands under a dotted name."""
    value: Any = known
    for part in name.split("."):
        value = value[part]
    return value


def _ordered(left: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In an order in which every stage comes after those it needs, otherwise as they stand."""
    done = []
    while left:
        missing = {path for stage in left for path in stage["writes"]}
        ready = next((stage for stage in left if not missing.intersection(stage["reads"])), left[0])
        done.append(ready)
        left = [stage for stage in left if stage is not ready]
    return done


def files(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows and short SHA-256 of JSON lines files, from the files themselves."""
    return [{"name": name, **_file(folder / f"{name}.jsonl")} for name in names]


def _file(path: Path) -> dict[str, Any]:
    digest, rows = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            rows += block.count(b"\n")
    return {"rows": rows, "sha256": digest.hexdigest()[:SHORT], "bytes": path.stat().st_size}
