"""`medqa verify`: what DVC does not notice - a byte that changed in an output, in the cache, in a model, in a
row.
"""

import argparse
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from medqa.commands.project import locked, repository
from medqa.runtime import hashing

Problem = tuple[str, str]  # what is wrong, what to do


def add(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print each problem with its remedy; the exit code is 1 if there is one. Raises UserError outside a
    project.
    """
    del options
    stages = locked()
    checked, problems = 0, 0
    for found in (workspace(stages), cached(stages, cache_folder()), pinned(), kept()):
        for problem in found:
            checked += 1
            if problem:
                problems += 1
                print(f"{problem[0]}\n    {problem[1]}")
    print(f"{checked} files, folders, pins and stores checked, {problems} problems")
    return int(problems > 0)


def workspace(stages: dict[str, Any]) -> Iterator[Problem | None]:
    """Each path that dvc.lock names, as it is in the workspace; what is not checked out is left out."""
    for path, (md5, writer, readers) in named(stages).items():
        if not Path(path).exists():
            continue
        if hashing.dvc_hash(Path(path)) == md5:
            yield None
        elif writer:
            yield (
                f"{path} is not what stage {writer} wrote",
                f"dvc checkout --force {path}, or {rerun(writer)}",
            )
        else:
            yield (
                f"{path} is not what dvc.lock names",
                f"git status tells if you meant it; dvc repro reruns {readers[0]}",
            )


def named(stages: dict[str, Any]) -> dict[str, tuple[str, str, list[str]]]:
    """Path to hash, the stage that writes it (or none) and the stages that read it."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for kind in ("outs", "deps"):
        for stage, entry in stages.items():
            for item in entry.get(kind, []):
                if kind == "outs":
                    found[item["path"]] = (item["md5"], stage, [])
                else:
                    found.setdefault(item["path"], (item["md5"], "", []))[2].append(stage)
    return found


def cached(stages: dict[str, Any], cache: Path) -> Iterator[Problem | None]:
    """Each cached object of each output, those of a folder's files too; what is not in the cache is left out."""
    for path, (md5, writer, _) in named(stages).items():
        if not writer:
            continue
        listing = cache / md5[:2] / md5[2:]
        objects = {md5.removesuffix(".dir"): (path, listing)}
        if md5.endswith(".dir") and listing.is_file():
            try:
                for entry in json.loads(listing.read_bytes()):
                    file = cache / entry["md5"][:2] / entry["md5"][2:]
                    objects[entry["md5"]] = (f"{path}/{entry['relpath']}", file)
            except (ValueError, TypeError, KeyError):
                pass  # its own hash is wrong too, which is told
        for wanted, (name, file) in objects.items():
            if not file.is_file():
                continue
            ok = hashing.dvc_hash(file) == wanted
            yield (
                None
                if ok
                else (f"{name}: its copy in the cache is damaged", f"delete {file}, then {rerun(writer)}")
            )


def pinned() -> Iterator[Problem | None]:
    """The weights of pinned models in the Hub's cache against their pins; what is not fetched is left out."""
    for pin in sorted(Path("models").glob("*/pin.json")):
        import huggingface_hub as hf

        stage = f"models@{pin.parent.name}"
        try:
            told = json.loads(pin.read_text(encoding="utf-8"))
            repo, commit, files = told["repo"], told["commit"], dict(told["files"])
        except (ValueError, TypeError, KeyError):
            yield f"{pin} is not a pin", rerun(stage)
            continue
        for name, sha256 in sorted(files.items()):
            file = hf.try_to_load_from_cache(repo, name, revision=commit)
            if isinstance(file, str):
                with open(file, "rb") as opened:
                    ok = hashlib.file_digest(opened, "sha256").hexdigest() == sha256
                yield (
                    None
                    if ok
                    else (f"{name} of {repo} is not as pinned ({file})", f"delete it, then {rerun(stage)}")
                )


def kept() -> Iterator[Problem | None]:
    """The rows of the store against their sums."""
    from medqa.commands.cache import damaged
    from medqa.runtime import row_cache

    file = row_cache.path()
    if not file.exists():
        return
    try:
        with closing(row_cache.connect(file)) as db:
            bad = damaged(db)
        yield (f"{file}: {len(bad)} rows are damaged", "medqa cache --verify drops them") if bad else None
    except sqlite3.Error as error:
        yield (
            f"{file} is damaged ({error})",
            "delete it; no stage has to be rerun, its rows are made again when needed",
        )


def cache_folder() -> Path:
    """The folder of DVC's cached objects."""
    return Path(repository().cache.local.path)


def rerun(stage: str) -> str:
    """How to make a stage's outputs again."""
    return f"rerun the stage that wrote it: dvc repro --force --single-item {stage} --no-run-cache"
