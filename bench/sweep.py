"""docs/sweep.md and the JSON behind it: how many candidates, and which of them become pairs.

`python -m bench.sweep queue` puts each combination of n, policy and seed that has no experiment yet into the
queue of DVC, and `dvc queue start --jobs 1` runs them. `python -m bench.sweep table` then makes the table.
A placebo would double the training of each, and no gain of DPO over SFT depends on it: `--placebo` adds it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, NamedTuple, cast, get_args

import yaml

from bench.checkout import DVC, ROOT
from medqa import compare, jsonl, metrics
from medqa.columns import Columns, collect
from medqa.commands.preset import flat
from medqa.records import Answer
from medqa.report.labels import GAINS
from medqa.runtime.errors import UserError
from medqa.runtime.sections import PairsPolicy

# With up to ten candidates best_two_sd makes the pairs of best_worst.
SIZES, POLICIES, SEEDS = (2, 4, 8), ("best_worst", "reference"), (0, 1, 2)
MEASURES = ("score", "token_f1", "rouge_l", "key_point_recall", "repetition", "cut_off")
PREFIX = "sweep-"  # of the names of the experiments
SAMPLES = 10_000  # of the bootstrap


class Cell(NamedTuple):
    """What one experiment changes in params.yaml. Cells sort as the table's rows, and then by seed."""

    n: int
    policy: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return f"{PREFIX}n{self.n}-{self.policy}-seed{self.seed}"

    @property
    def changes(self) -> dict[str, Any]:
        """The values by dotted key."""
        return {"generate.n": self.n, "pairs.policy": self.policy, "seed": self.seed}


class Experiment(NamedTuple):
    """A finished experiment: the number of its pairs, and the gains of DPO over SFT per question."""

    cell: Cell
    pairs: int
    gains: Columns


def queue(folder: Path, cells: Iterable[Cell], placebo: bool) -> int:
    """Put the cells that have no experiment yet into DVC's queue, by seed; returns their number.

    With `placebo` each of them trains that control too.
    Raises UserError if params.yaml is not the embedded preset.
    """
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    if params["data"]["sft"]["source"] != "embedded":
        raise UserError("params.yaml holds another preset than the embedded one; run medqa preset base")
    finished = set(commits(folder))
    missing = [cell for cell in cells if cell.name not in finished]
    for cell in sorted(missing, key=lambda cell: (cell.seed, cell)):  # a seed's models are trained once
        changes = cell.changes | {"control.placebo": str(placebo).lower()}
        settings = [word for key, value in changes.items() for word in ("-S", f"{key}={value}")]
        command = [*DVC, "exp", "run", "--queue", "--name", cell.name, *settings]
        subprocess.run(command, cwd=folder, check=True)
    return len(missing)


def commits(folder: Path) -> dict[str, str]:
    """The commit of each finished experiment of the sweep by name; of several with a name, the newest."""
    form = ("--sort=committerdate", "--format=%(objectname) %(refname)")
    listing = _git(folder, "for-each-ref", *form, "refs/exps")
    refs = (line.split() for line in listing.splitlines())
    names = ((ref.rpartition("/")[2], commit) for commit, ref in refs)
    return {name: commit for name, commit in names if name.startswith(PREFIX)}


def read(folder: Path) -> list[Experiment]:
    """The finished experiments. Raises UserError without any, or if they differ in other parameters."""
    names = commits(folder)
    if not names:
        raise UserError("the sweep has no experiment; python -m bench.sweep queue, dvc queue start --jobs 1")
    experiments, settings = [], []
    for commit in names.values():
        params = flat(yaml.safe_load(_git(folder, "show", f"{commit}:params.yaml")))
        cell = Cell(*(json.loads(params.pop(key)) for key in ("generate.n", "pairs.policy", "seed")))
        settings.append({(key, value) for key, value in params.items() if not key.startswith("control.")})
        pairs = json.loads(_git(folder, "show", f"{commit}:metrics/pairs.json"))["pairs"]
        columns = (collect(rows, compare.MEASURES) for rows in _answers(folder, commit))
        gains = compare.paired_gains(*columns)
        experiments.append(Experiment(cell, pairs, gains))
    if different := {key for items in settings for key, _ in items ^ settings[0]}:
        keys = ", ".join(sorted(different))
        raise UserError(f"the experiments of the sweep differ in {keys}; dvc exp remove the old ones")
    return sorted(experiments)


def _answers(folder: Path, commit: str) -> Iterator[list[Answer]]:
    """The answers of DPO and of SFT to the held-out questions."""
    import dvc.api

    files = dvc.api.DVCFileSystem(str(folder), rev=commit)
    for model in ("dpo", "sft"):
        rows = map(json.loads, files.read_text(f"data/answers/{model}.jsonl").splitlines())
        # A later version of the code may have other fields.
        yield [cast(Answer, SimpleNamespace(**row)) for row in rows]


def summarize(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Per n and policy: the seeds, the mean number of pairs, and the mean gains with their intervals."""
    rows = []
    for (n, policy), group in groupby(experiments, lambda experiment: experiment.cell[:2]):
        runs = list(group)
        row = {"n": n, "policy": policy, "seeds": [run.cell.seed for run in runs]}
        row["pairs"] = fmean(run.pairs for run in runs)
        for name in MEASURES:
            gains = [run.gains[name] for run in runs if len(run.gains[name])]
            if gains:
                row |= metrics.named(f"{name}_gain", metrics.hierarchical_interval(gains, 0, SAMPLES))
        rows.append(jsonl.rounded(row))
    return rows


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    head = ["n", "policy", "seeds", "pairs", *(GAINS[name] for name in MEASURES)]
    lines = [HEAD, _line(head), _line(["---"] * len(head))]
    for row in rows:
        seeds = ", ".join(map(str, row["seeds"]))
        gains = [_gain(row, f"{name}_gain") for name in MEASURES]
        lines.append(_line([str(row["n"]), row["policy"], seeds, f"{row['pairs']:.0f}", *gains]))
    return "\n".join(lines) + "\n"


HEAD = """# Which pairs: a sweep

The embedded run with n candidates per question (`generate.n`) and two ways to make pairs of them
(`pairs.policy`): the best candidate against the worst, and the reference against the worst candidate. A third
way, `best_two_sd`, rejects the candidate whose score is nearest to two standard deviations below the mean.
With up to ten candidates that is always the worst one, so it is not run. Gains are those of DPO over SFT on
open held-out questions: the mean over the seeds, with the 95% interval of a hierarchical bootstrap that draws
seeds, then questions. Made by `python -m bench.sweep table` from the experiments; the numbers are in
[sweep.json](sweep.json).
"""


def _gain(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return "–"
    return f"{row[name]:+.3f} ({row[f'{name}_low']:+.3f} to {row[f'{name}_high']:+.3f})"


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Queue the sweep's experiments, or write docs/sweep.json and docs/sweep.md from those that are there."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=main.__doc__)
    parser.add_argument("action", choices=("queue", "table"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="candidates per question")
    parser.add_argument("--policies", nargs="+", choices=get_args(PairsPolicy), default=POLICIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--placebo", action="store_true", help="train a placebo in each experiment")
    args = parser.parse_args()
    try:
        if args.action == "queue":
            cells = map(Cell._make, product(args.sizes, args.policies, args.seeds))
            count = queue(ROOT, cells, args.placebo)
            print(f"{count} experiments queued; dvc queue start --jobs 1 runs them")
            return 0
        rows = summarize(read(ROOT))
    except UserError as error:
        print(f"bench.sweep: {error}", file=sys.stderr)
        return 1
    with jsonl.atomic_write(ROOT / "docs" / "sweep.json") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    with jsonl.atomic_write(ROOT / "docs" / "sweep.md") as file:
        file.write(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
