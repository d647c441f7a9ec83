"""Where raw rows come from: the embedded corpus, a data set of the Hub, or the user's own files."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medqa.params import Section
from medqa.records import Origin
from medqa.sources import Source, embedded, read

SPLITS = ("train", "dev", "test")


class Embedded(Section):
    """The corpus that comes with the project."""

    source: Literal["embedded"]


class Hub(Section):
    """A data set of the Hub: for preferences, files whose names begin with train, dev and test."""

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(min_length=1)


class SftFile(Section):
    """A file of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    path: str


class PreferenceFiles(Section):
    """Three files of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    train: str
    dev: str
    test: str


def raw_rows(
    corpus: Path, sft: Embedded | Hub | SftFile, preference: Embedded | Hub | PreferenceFiles, seed: int
) -> tuple[dict[str, Iterator[Source]], list[Origin]]:
    """The raw rows of `sft` and of each split of the preferences, streamed, and where each of the two sets comes from.

    Raises UserError if a data set cannot be had; a file that cannot be read raises it when its first row is asked for.
    """
    topics = embedded.topics(corpus) if "embedded" in (sft.source, preference.source) else []
    match sft:
        case Hub(repo=repo, revision=revision):
            commit, paths = _hub(repo, revision, "data.sft.revision")
            origins = [Origin("sft", "hub", repo, commit)]
            sources = {"sft": _files(paths)}
        case SftFile(path=path):
            origins = [Origin("sft", "files", path, "")]
            sources = {"sft": read(corpus / path)}
        case _:
            origins = [Origin("sft", "embedded", "", "")]
            sources = {"sft": _made(embedded.sft_rows(topics, seed))}
    match preference:
        case Hub(repo=repo, revision=revision):
            commit, paths = _hub(repo, revision, "data.preference.revision")
            origins.append(Origin("preference", "hub", repo, commit))
            sources |= {split: _files([path for path in paths if path.name.startswith(split)]) for split in SPLITS}
        case PreferenceFiles() as files:
            names = {split: getattr(files, split) for split in SPLITS}
            origins.append(Origin("preference", "files", ", ".join(names.values()), ""))
            sources |= {split: read(corpus / name) for split, name in names.items()}
        case _:
            made = embedded.preference_rows(topics, seed)
            origins.append(Origin("preference", "embedded", "", ""))
            sources |= {split: _made(made[split]) for split in SPLITS}
    return sources, origins


def _hub(repo: str, revision: str, key: str) -> tuple[str, list[Path]]:
    from medqa import hub

    return hub.fetch_dataset(repo, revision, ["*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz", "*.parquet"], key)


def _files(paths: list[Path]) -> Iterator[Source]:
    names = Counter(path.name for path in paths)
    for path in paths:
        for source in read(path):
            # A row's place is its name in the ledger: two folders may hold files of one name.
            yield replace(source, file=f"{path.parent.name}/{path.name}") if names[path.name] > 1 else source


def _made(rows: Iterable[dict[str, Any]]) -> Iterator[Source]:
    return (Source("embedded", line, row) for line, row in zip(count(1), rows, strict=False))
