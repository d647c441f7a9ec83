"""Where raw rows come from: the embedded corpus, a data set of the Hub, or the user's own files."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from medqa.miniature import embedded, embedded_rows
from medqa.records import Provenance
from medqa.runtime.errors import UserError
from medqa.runtime.sections import SPLITS, EmbeddedRows, HubRows, PreferenceFiles, SftFile
from medqa.sources import RawRow, read_rows

_PATTERNS = ["*.json", "*.jsonl", "*.ndjson", "*.json.gz", "*.jsonl.gz", "*.parquet"]
_SPLIT_OF = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("dev", "validation", "valid", "val", "eval", "evaluation"), "dev"
)
# What describes a data set or how it was saved, and holds no row of it.
_ABOUT = re.compile(
    r"(dataset_infos?|dataset_dict|state|config|croissant|metadata|schema|index|package)\.json|[._].*"
)


def raw_rows(
    corpus: Path,
    sft: EmbeddedRows | HubRows | SftFile,
    preference: EmbeddedRows | HubRows | PreferenceFiles,
    seed: int,
) -> tuple[dict[str, Iterator[RawRow]], list[Provenance]]:
    """The raw rows of `sft` and of each split of the preferences, streamed, and where each of the two sets
    comes from.

    Raises UserError if a data set cannot be had; a file that cannot be read raises it when its first row is
    asked for.
    """
    topics = embedded.topics(corpus) if "embedded" in (sft.source, preference.source) else []
    match sft:
        case HubRows(repo=repo, revision=revision):
            commit, splits = _hub(repo, revision, "data.sft.revision")
            provenance = [Provenance("sft", "hub", repo, commit)]
            # Without names of splits all of it is there to be trained on.
            sources = {"sft": _split(repo, commit, splits, "" if set(splits) == {""} else "train")}
        case SftFile(path=path):
            provenance = [Provenance("sft", "files", path, "")]
            sources = {"sft": _files([corpus / path])}
        case _:
            provenance = [Provenance("sft", "embedded", "", "")]
            sources = {"sft": _made(embedded_rows.sft_rows(topics, seed))}
    match preference:
        case HubRows(repo=repo, revision=revision):
            commit, splits = _hub(repo, revision, "data.preference.revision")
            provenance.append(Provenance("preference", "hub", repo, commit))
            sources |= {split: _split(repo, commit, splits, split) for split in SPLITS}
        case PreferenceFiles() as files:
            names = {split: getattr(files, split) for split in SPLITS}
            provenance.append(Provenance("preference", "files", ", ".join(names.values()), ""))
            sources |= {split: _files([corpus / name]) for split, name in names.items()}
        case _:
            made = embedded_rows.preference_rows(topics, seed)
            provenance.append(Provenance("preference", "embedded", "", ""))
            sources |= {split: _made(made[split]) for split in SPLITS}
    return sources, provenance


def _hub(repo: str, revision: str, key: str) -> tuple[str, dict[str, dict[str, Path]]]:
    """The commit, and by split ('' where none is named) the files of rows by their names in the repo."""
    from medqa import hub

    commit, paths = hub.fetch_dataset(repo, revision, _PATTERNS, key)
    splits: dict[str, dict[str, Path]] = {}
    for path in paths:
        if not _ABOUT.fullmatch(path.name):
            parts = path.parts[path.parts.index(commit) + 1 :] if commit in path.parts else path.parts[-1:]
            splits.setdefault(_named_split(parts), {})["/".join(parts)] = path
    return commit, splits


def _named_split(parts: Sequence[str]) -> str:
    """The split that a file's name says, or else the folder nearest to it: `a/train/0.parquet`,
    `b-validation.json`.
    """
    for part in reversed(parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return ""


def _split(repo: str, commit: str, splits: dict[str, dict[str, Path]], split: str) -> Iterator[RawRow]:
    """The rows of a split. Raises UserError naming every split's files if it has no file."""
    if split not in splits:
        files = (
            "; ".join(f"{name or 'no split'}: {', '.join(splits[name])}" for name in sorted(splits)) or "none"
        )
        raise UserError(
            f"{repo} at {commit} has no file of {split} ({files}); name the split in the files' names, as in "
            f"{split}.jsonl, or download them and set source: files"
        )
    yield from _files(list(splits[split].values()))


def _files(paths: list[Path]) -> Iterator[RawRow]:
    """The rows of files. Raises UserError naming them if they hold none."""
    names, source = Counter(path.name for path in paths), None
    above = os.path.commonpath([path.parent for path in paths])
    for path in paths:
        for source in read_rows(path):
            # A row's place is its name in the ledger: two folders may hold files of one name.
            yield replace(source, file=str(path.relative_to(above))) if names[path.name] > 1 else source
    if source is None:
        raise UserError(f"{', '.join(map(str, paths))}: no row in it; see data in params.yaml")


def _made(rows: Iterable[dict[str, Any]]) -> Iterator[RawRow]:
    return (RawRow("embedded", line, row) for line, row in zip(count(1), rows, strict=False))
