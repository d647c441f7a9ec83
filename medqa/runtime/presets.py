"""Presets: base.yaml is a whole params.yaml, and each other file of presets/ holds what differs from it.

A preset is merged as text, so that the comments of both files survive. Mappings are merged key by key. A
mapping with a `source` (a model, a set of rows) and one in braces are replaced whole: their keys belong
together. A key that a preset sets has the comments that it has there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medqa.runtime.errors import UserError

FOLDER = Path("presets")
BASE = "base"


@dataclass(frozen=True)
class _Entry:
    """The lines of a key and its value, with the comment right above it."""

    start: int
    stop: int  # the line after the last
    entries: "dict[str, _Entry]"  # of the mapping that is its value; empty if that is replaced whole


def names(folder: Path = FOLDER) -> list[str]:
    """The presets of a folder, the base first. Raises UserError where there are none."""
    overlays = sorted(path.stem for path in folder.glob("*.yaml") if path.stem != BASE)
    if not (folder / f"{BASE}.yaml").is_file():
        raise UserError(f"{folder}/{BASE}.yaml is not there; run it in the project's folder")
    return [BASE, *overlays]


def read_text(name: str, folder: Path = FOLDER) -> str:
    """A preset as a whole params.yaml. Raises UserError for one that does not exist."""
    if name not in names(folder):
        raise UserError(f"{name!r} is no preset; there are {', '.join(names(folder))}")
    base, text = ((folder / f"{each}.yaml").read_text(encoding="utf-8") for each in (BASE, name))
    return text if name == BASE else merge(base, text)


def read(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The values of a preset, all of them. Raises UserError for one that does not exist."""
    return dict(yaml.safe_load(read_text(name, folder)))


def title(name: str, folder: Path = FOLDER) -> str:
    """What a preset is, in a line: the first of its comments."""
    lines = (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[1 if name == BASE else 0].removeprefix("# ")


def merge(base: str, overlay: str) -> str:
    """The base's text with the keys of the overlay, and with its first comment under the base's first line.

    Both are laid out alike: one key per line, and two more spaces per level.
    """
    lines, overlay_lines = base.splitlines(), overlay.splitlines()
    edits = [(1, _header(lines), overlay_lines[: _header(overlay_lines)])]
    for start, stop, entry in _edits(_parse(base), _parse(overlay)):
        edits.append((start, stop, overlay_lines[entry.start : entry.stop]))
    # From the last line to the first, so that the numbers of lines before an edit stay right.
    edits.sort(key=lambda edit: edit[0])
    for start, stop, new in reversed(edits):
        lines[start:stop] = new
    return "\n".join(lines) + "\n"


def _edits(base: dict[str, _Entry], overlay: dict[str, _Entry]) -> Iterator[tuple[int, int, _Entry]]:
    """The lines of the base that an entry of the overlay replaces; none, at the end, for a new key."""
    end = max(entry.stop for entry in base.values())
    for key, entry in overlay.items():
        replaced = base.get(key, _Entry(end, end, {}))
        if replaced.entries and entry.entries:
            yield from _edits(replaced.entries, entry.entries)
        else:
            yield replaced.start, replaced.stop, entry


def _header(lines: list[str]) -> int:
    """How many lines of comment a file begins with."""
    return next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _parse(text: str) -> dict[str, _Entry]:
    root = yaml.compose(text, yaml.SafeLoader)
    return _entries(root, text.splitlines()) if isinstance(root, yaml.MappingNode) else {}


def _entries(mapping: yaml.MappingNode, lines: list[str]) -> dict[str, _Entry]:
    entries = {}
    for key, value in mapping.value:
        start = key.start_mark.line
        while start and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        is_merged = (
            isinstance(value, yaml.MappingNode)
            and not value.flow_style
            and all(child.value != "source" for child, _ in value.value)
        )
        entries[key.value] = _Entry(start, _last_line(value) + 1, _entries(value, lines) if is_merged else {})
    return entries


def _last_line(node: yaml.Node) -> int:
    """The last line of a value; the end that YAML gives a block is behind the comments after it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return _last_line(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return _last_line(node.value[-1])
    return node.end_mark.line
