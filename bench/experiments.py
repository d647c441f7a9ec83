"""Finished experiments of DVC, read from its commits: parameters, metrics, and gains of DPO over SFT."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import yaml

from bench.checkout import ROOT
from medqa import compare, jsonl, metrics
from medqa.columns import Columns, collect
from medqa.commands.preset import flat
from medqa.records import Answer
from medqa.runtime.errors import UserError

SAMPLES = 10_000  # of the bootstrap


class Experiment(NamedTuple):
    """A finished experiment; `varied` has the parameters that may differ, `gains` a column per measure."""

    name: str
    varied: dict[str, Any]
    metrics: dict[str, dict[str, Any]]  # by the name of the file
    gains: Columns  # of DPO over SFT, per open held-out question


def commits(folder: Path, prefix: str) -> dict[str, str]:
    """The commit of each experiment whose name begins so; of several with a name, the newest."""
    form = ("--sort=committerdate", "--format=%(objectname) %(refname)")
    listing = _git(folder, "for-each-ref", *form, "refs/exps")
    refs = (line.split() for line in listing.splitlines())
    names = ((ref.rpartition("/")[2], commit) for commit, ref in refs)
    return {name: commit for name, commit in names if name.startswith(prefix)}


def read(folder: Path, prefix: str, varied: Sequence[str], files: Sequence[str]) -> list[Experiment]:
    """The experiments whose name begins with the prefix, with these metrics files, by name.

    Parameters of `varied`, with dotted keys, and those of controls may differ between them.
    Raises UserError if there is none, or if they differ in other parameters.
    """
    experiments, settings = [], []
    for name, commit in sorted(commits(folder, prefix).items()):
        params = flat(yaml.safe_load(_git(folder, "show", f"{commit}:params.yaml")))
        values = {key: json.loads(params.pop(key)) for key in varied}
        settings.append({(key, value) for key, value in params.items() if not key.startswith("control.")})
        measured = {file: json.loads(_git(folder, "show", f"{commit}:metrics/{file}.json")) for file in files}
        columns = (collect(rows, compare.MEASURES) for rows in _answers(folder, commit))
        gains = compare.paired_gains(*columns)
        experiments.append(Experiment(name, values, measured, gains))
    if not experiments:
        raise UserError(f"no experiment has a name that begins with {prefix}")
    if different := {key for items in settings for key, _ in items ^ settings[0]}:
        keys = ", ".join(sorted(different))
        raise UserError(f"the experiments {prefix}* differ in {keys}; dvc exp remove the old ones")
    return experiments


def mean_gains(experiments: Sequence[Experiment], measures: Sequence[str]) -> dict[str, float]:
    """The mean gain per measure, with a 95% interval over experiments (seeds) and questions."""
    row: dict[str, float] = {}
    for name in measures:
        gains = [run.gains[name] for run in experiments if len(run.gains[name])]
        if gains:
            row |= metrics.named(f"{name}_gain", metrics.hierarchical_interval(gains, 0, SAMPLES))
    return row


def gain_cell(row: Mapping[str, float], name: str) -> str:
    """A gain of `mean_gains` with its interval, as a cell of a table."""
    if f"{name}_gain" not in row:
        return "–"
    value, low, high = (row[f"{name}_gain{end}"] for end in ("", "_low", "_high"))
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def write(name: str, rows: Sequence[Mapping[str, Any]], page: str) -> None:
    """Write the rows as docs/NAME.json, and the page that is made of them as docs/NAME.md."""
    for suffix, text in (("json", json.dumps(rows, indent=1) + "\n"), ("md", page)):
        with jsonl.atomic_write(ROOT / "docs" / f"{name}.{suffix}") as file:
            file.write(text)


def _answers(folder: Path, commit: str) -> Iterator[list[Answer]]:
    """The answers of DPO and of SFT to the held-out questions."""
    import dvc.api

    files = dvc.api.DVCFileSystem(str(folder), rev=commit)
    for model in ("dpo", "sft"):
        rows = map(json.loads, files.read_text(f"data/answers/{model}.jsonl").splitlines())
        # A later version of the code may have other fields.
        yield [cast(Answer, SimpleNamespace(**row)) for row in rows]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
