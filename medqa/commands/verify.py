"""`medqa verify` finds what DVC does not: a changed byte in an output, its cache, a model or a cached row."""

import argparse
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medqa.commands.cache import damaged_rows
from medqa.commands.project import locked_stages, repository
from medqa.runtime import hashing, row_cache

Check = tuple[str, str] | None  # a problem and its remedy; None for what is sound


@dataclass
class LockedPath:
    """A path of dvc.lock: its hash, the stage that writes it, if one does, and the stages that read it."""

    md5: str
    writer: str = ""
    readers: list[str] = field(default_factory=list)


def add(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print each problem with its remedy; the exit code is 1 if there is any."""
    paths = locked_paths(locked_stages())
    checked = problems = 0
    for check in checks(paths, Path(repository().cache.local.path)):
        checked += 1
        if check:
            problems += 1
            print(f"{check[0]}\n    {check[1]}")
    print(f"{checked} files, folders, pins and row caches checked, {problems} problems")
    return int(problems > 0)


def checks(paths: dict[str, LockedPath], cache: Path) -> Iterator[Check]:
    """One check per file, folder, pinned file and row cache."""
    yield from check_workspace(paths)
    yield from check_dvc_cache(paths, cache)
    yield from check_pinned_models()
    yield from check_row_cache()


def locked_paths(stages: dict[str, Any]) -> dict[str, LockedPath]:
    """The paths of dvc.lock, those that stages write first."""
    paths = {
        out["path"]: LockedPath(out["md5"], writer=stage)
        for stage, entry in stages.items()
        for out in entry.get("outs", [])
    }
    for stage, entry in stages.items():
        for dep in entry.get("deps", []):
            paths.setdefault(dep["path"], LockedPath(dep["md5"])).readers.append(stage)
    return paths


def check_workspace(paths: dict[str, LockedPath]) -> Iterator[Check]:
    """Each path as it is in the workspace; one that is not checked out is left out."""
    for path, locked in paths.items():
        if not Path(path).exists():
            continue
        if hashing.dvc_hash(Path(path)) == locked.md5:
            yield None
        elif locked.writer:
            remedy = f"dvc checkout --force {path}, or {rerun(locked.writer)}"
            yield f"{path} is not what stage {locked.writer} wrote", remedy
        else:
            remedy = f"git status shows whether that is on purpose; dvc repro reruns {locked.readers[0]}"
            yield f"{path} is not what dvc.lock names", remedy


def check_dvc_cache(paths: dict[str, LockedPath], cache: Path) -> Iterator[Check]:
    """Each output's object in DVC's cache, and those of a folder's files; one that is missing is left out."""
    for path, locked in paths.items():
        if not locked.writer:
            continue
        for name, md5 in cached_objects(path, locked.md5, cache):
            file = cache / md5[:2] / md5[2:]
            if not file.is_file():
                continue
            sound = hashing.dvc_hash(file) == md5.removesuffix(".dir")
            remedy = f"delete {file}, then {rerun(locked.writer)}"
            yield None if sound else (f"{name}: its copy in the cache is damaged", remedy)


def cached_objects(path: str, md5: str, cache: Path) -> Iterator[tuple[str, str]]:
    """Name and hash of an output's object in the cache; for a folder, those of its files too."""
    yield path, md5
    listing = cache / md5[:2] / md5[2:]
    if md5.endswith(".dir") and listing.is_file():
        try:
            entries = [
                (f"{path}/{entry['relpath']}", entry["md5"]) for entry in json.loads(listing.read_bytes())
            ]
        except (ValueError, TypeError, KeyError):
            return  # the hash of the listing itself is wrong too, which is reported
        yield from entries


def check_pinned_models() -> Iterator[Check]:
    """The weights of pinned models in the Hub's cache; what is not fetched is left out."""
    for pin in sorted(Path("models").glob("*/pin.json")):
        import huggingface_hub as hf

        remedy = rerun(f"models@{pin.parent.name}")
        try:
            pinned = json.loads(pin.read_text(encoding="utf-8"))
            repo, commit, files = pinned["repo"], pinned["commit"], dict(pinned["files"])
        except (ValueError, TypeError, KeyError):
            yield f"{pin} is not a pin", remedy
            continue
        for name, sha256 in sorted(files.items()):
            file = hf.try_to_load_from_cache(repo, name, revision=commit)
            if isinstance(file, str):
                sound = hashing.sha256_of(Path(file)) == sha256
                yield (
                    None
                    if sound
                    else (f"{name} of {repo} is not as pinned ({file})", f"delete it, then {remedy}")
                )


def check_row_cache() -> Iterator[Check]:
    """The rows of the row cache against their checksums."""
    file = row_cache.path()
    if not file.exists():
        return
    try:
        with closing(row_cache.connect(file)) as db:
            count = len(damaged_rows(db))
        yield (f"{file}: {count} rows are damaged", "medqa cache --verify drops them") if count else None
    except sqlite3.Error as error:
        remedy = "delete it; no stage has to be rerun, its rows are made again when needed"
        yield f"{file} is damaged ({error})", remedy


def rerun(stage: str) -> str:
    """How to make a stage's outputs again."""
    return f"rerun the stage that wrote it: dvc repro --force --single-item {stage} --no-run-cache"
