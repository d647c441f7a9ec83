"""Where raw rows come from: the embedded corpus, a data set of the Hub, or the user's own files."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medqa.miniature import embedded, embedded_rows
from medqa.records import Provenance
from medqa.runtime.data_section import SPLITS, EmbeddedRows, HubRows, PreferenceFiles, SftFile
from medqa.runtime.errors import UserError
from medqa.sources import RawRow, read_rows

_PATTERNS = ["*.json", "*.jsonl", "*.ndjson", "*.json.gz", "*.jsonl.gz", "*.parquet"]
_SPLIT_BY_WORD = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("dev", "validation", "valid", "val", "eval", "evaluation"), "dev"
)
# Files that describe a data set or how it was saved, and hold no row of it.
_NO_ROWS = re.compile(
    r"(dataset_infos?|dataset_dict|state|config|croissant|metadata|schema|index|package)\.json|[._].*"
)


def raw_rows(
    corpus: Path,
    sft: EmbeddedRows | HubRows | SftFile,
    preference: EmbeddedRows | HubRows | PreferenceFiles,
    seed: int,
) -> tuple[dict[str, Iterator[RawRow]], list[Provenance]]:
    """The raw rows of `sft` and of each preference split, streamed, and where the two sets come from.

    Raises UserError if a data set cannot be fetched; iterating raises it for a file that cannot be read.
    """
    topics = embedded.topics(corpus) if "embedded" in (sft.source, preference.source) else []
    match sft:
        case HubRows():
            commit, files = _hub_files(sft, "data.sft.revision")
            provenance = [Provenance("sft", "hub", sft.repo, commit)]
            # Where no file names a split, all of them are for training.
            sources = {"sft": _split_rows(sft.repo, commit, files, "" if set(files) == {""} else "train")}
        case SftFile():
            provenance = [Provenance("sft", "files", sft.path, "")]
            sources = {"sft": read_files([corpus / sft.path])}
        case _:
            provenance = [Provenance("sft", "embedded", "", "")]
            sources = {"sft": _embedded_rows(embedded_rows.sft_rows(topics, seed))}
    match preference:
        case HubRows():
            commit, files = _hub_files(preference, "data.preference.revision")
            provenance.append(Provenance("preference", "hub", preference.repo, commit))
            sources |= {split: _split_rows(preference.repo, commit, files, split) for split in SPLITS}
        case PreferenceFiles():
            names = {split: getattr(preference, split) for split in SPLITS}
            provenance.append(Provenance("preference", "files", ", ".join(names.values()), ""))
            sources |= {split: read_files([corpus / name]) for split, name in names.items()}
        case _:
            rows = embedded_rows.preference_rows(topics, seed)
            provenance.append(Provenance("preference", "embedded", "", ""))
            sources |= {split: _embedded_rows(rows[split]) for split in SPLITS}
    return sources, provenance


def _hub_files(source: HubRows, key: str) -> tuple[str, dict[str, dict[str, Path]]]:
    """The commit, and by split ('' where none is named) the files of rows by their names in the repo."""
    from medqa import hub

    commit, paths = hub.fetch_dataset(source.repo, source.revision, _PATTERNS, key)
    files: dict[str, dict[str, Path]] = {}
    for path in paths:
        if not _NO_ROWS.fullmatch(path.name):
            parts = path.parts[path.parts.index(commit) + 1 :] if commit in path.parts else path.parts[-1:]
            files.setdefault(_named_split(parts), {})["/".join(parts)] = path
    return commit, files


def _named_split(parts: Sequence[str]) -> str:
    """The split that a file's name or its nearest folder names: `a/train/0.parquet`, `b-val.json`."""
    for part in reversed(parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_BY_WORD:
                return _SPLIT_BY_WORD[word]
    return ""


def _split_rows(repo: str, commit: str, files: dict[str, dict[str, Path]], split: str) -> Iterator[RawRow]:
    """The rows of a split. Raises UserError naming the files of every split if it has no file."""
    if split not in files:
        names = "; ".join(f"{name or 'no split'}: {', '.join(files[name])}" for name in sorted(files))
        raise UserError(
            f"{repo} at {commit} has no file of {split} ({names or 'none'}); name the split in the files' "
            f"names, as in {split}.jsonl, or download them and set source: files"
        )
    yield from read_files(list(files[split].values()))


def read_files(paths: list[Path]) -> Iterator[RawRow]:
    """The rows of files. Raises UserError naming them if they hold none."""
    names, row = Counter(path.name for path in paths), None
    common = os.path.commonpath([path.parent for path in paths])
    for path in paths:
        for row in read_rows(path):
            # The audit names a row by its file: two folders may hold files of one name.
            yield replace(row, file=str(path.relative_to(common))) if names[path.name] > 1 else row
    if row is None:
        raise UserError(f"{', '.join(map(str, paths))}: no row in it; see data in params.yaml")


def _embedded_rows(rows: Iterable[dict[str, Any]]) -> Iterator[RawRow]:
    return (RawRow("embedded", number, row) for number, row in enumerate(rows, 1))
