"""`medqa preset`: lists the presets, or writes one into params.yaml and shows what changes."""

import argparse
import difflib
import json
from typing import Any

import yaml

from medqa import jsonl
from medqa.commands.recompute import cells
from medqa.runtime import presets
from medqa.runtime.errors import UserError
from medqa.runtime.params import PARAMS

LISTED = 6  # keys in a line


def add(parser: argparse.ArgumentParser) -> None:
    """Which preset, and whether it may replace what the user changed."""
    parser.add_argument("name", nargs="?", help="the preset to write into params.yaml; without it, a list")
    parser.add_argument("--force", action="store_true", help="replace changes of your own too")


def run(options: argparse.Namespace) -> int:
    """List the presets, or write one. Raises UserError if it does not exist, or changes would be lost."""
    if options.name is None:
        for name in presets.names():
            print(f"{name:16} {presets.title(name)}")
        print(f"\nparams.yaml {nearest_preset()}. medqa preset NAME writes another one into it.")
        return 0
    text = presets.read_text(options.name)
    current = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else ""
    if current == text:
        print(f"params.yaml equals {options.name}")
        return 0
    if current and not options.force and current not in map(presets.read_text, presets.names()):
        name = nearest(flat_or_empty(current))[0]
        print(difference(presets.read_text(name), current, name, "params.yaml"))
        raise UserError(
            f"params.yaml has changes of your own, which are above; copy it, and let --force write "
            f"{options.name} over them"
        )
    with jsonl.atomic_write(PARAMS) as file:
        file.write(text)
    print(difference(current, text, "params.yaml before", options.name))
    print(f"params.yaml is {options.name} now. Next: dvc repro")
    return 0


def nearest_preset() -> str:
    """Which preset params.yaml equals or is nearest to, with the keys that differ; the end of a sentence.

    Raises UserError if params.yaml is no mapping that can be read.
    """
    if not PARAMS.exists():
        return "is not there"
    params = flat_or_empty(PARAMS.read_text(encoding="utf-8"))
    name, keys = nearest(params)
    listed = ", ".join(keys[:LISTED]) + (f" and {len(keys) - LISTED} more" if len(keys) > LISTED else "")
    return f"is nearest to {name}, other in {listed}" if keys else f"equals {name}"


def nearest(params: dict[str, str]) -> tuple[str, list[str]]:
    """The preset with the fewest keys of other values than these, and those keys."""
    differences = {
        name: sorted({key for key, _ in params.items() ^ flat(presets.read(name)).items()})
        for name in presets.names()
    }
    return min(differences.items(), key=lambda item: len(item[1]))


def difference(before: str, after: str, name_before: str, name_after: str) -> str:
    """The unified diff of the values of two params.yaml, one dotted key per line."""
    old, new = ([f"{key}: {value}" for key, value in flat_or_empty(text).items()] for text in (before, after))
    diff = difflib.unified_diff(old, new, name_before, name_after, n=0, lineterm="")
    shown = [line for line in diff if not line.startswith("@@")]
    return "\n".join(shown) or "(no value differs: comments or the layout do)"


def flat_or_empty(text: str) -> dict[str, str]:
    """The values of a params.yaml under their dotted keys; none if it cannot be read."""
    try:
        params = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return flat(params) if isinstance(params, dict) else {}


def flat(params: dict[str, Any]) -> dict[str, str]:
    """The values of a params.yaml as JSON, under their dotted keys."""
    return {key: json.dumps(value) for key, value in cells(params)}
