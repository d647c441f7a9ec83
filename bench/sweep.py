"""docs/sweep.md and the JSON behind it: how many candidates, and which of them become pairs.

`python -m bench.sweep queue` puts each combination of n, policy and seed that has no experiment yet into the
queue of DVC, and `dvc queue start --jobs 1` runs them. `python -m bench.sweep table` then makes the table.
A placebo would double the training of each, and no gain of DPO over SFT depends on it: `--placebo` adds it.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, get_args

import yaml

from bench import experiments
from bench.checkout import DVC, ROOT
from bench.experiments import Experiment
from medqa import jsonl
from medqa.report.labels import GAINS
from medqa.runtime.errors import UserError
from medqa.runtime.sections import PairsPolicy

# With up to ten candidates best_two_sd makes the pairs of best_worst.
SIZES, POLICIES, SEEDS = (2, 4, 8), ("best_worst", "reference"), (0, 1, 2)
MEASURES = ("score", "token_f1", "rouge_l", "key_point_recall", "repetition", "cut_off")
PREFIX = "sweep-"  # of the names of the experiments
VARIED = ("generate.n", "pairs.policy", "seed")


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


def queue(folder: Path, cells: Iterable[Cell], placebo: bool) -> int:
    """Put the cells that have no experiment yet into DVC's queue, by seed; returns their number.

    With `placebo` each of them trains that control too.
    Raises UserError if params.yaml is not the embedded preset.
    """
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    if params["data"]["sft"]["source"] != "embedded":
        raise UserError("params.yaml holds another preset than the embedded one; run medqa preset base")
    finished = set(experiments.commits(folder, PREFIX))
    missing = [cell for cell in cells if cell.name not in finished]
    for cell in sorted(missing, key=lambda cell: (cell.seed, cell)):  # a seed's models are trained once
        changes = cell.changes | {"control.placebo": str(placebo).lower()}
        settings = [word for key, value in changes.items() for word in ("-S", f"{key}={value}")]
        command = [*DVC, "exp", "run", "--queue", "--name", cell.name, *settings]
        subprocess.run(command, cwd=folder, check=True)
    return len(missing)


def summarize(runs: Iterable[Experiment]) -> list[dict[str, Any]]:
    """Per n and policy: the seeds, the mean number of pairs, and the mean gains with their intervals."""
    cells: dict[tuple[int, str], list[Experiment]] = {}
    for run in sorted(runs, key=lambda run: list(run.varied.values())):
        cells.setdefault((run.varied["generate.n"], run.varied["pairs.policy"]), []).append(run)
    return [
        jsonl.rounded(
            {"n": n, "policy": policy, "seeds": [run.varied["seed"] for run in group]}
            | {"pairs": fmean(run.metrics["pairs"]["pairs"] for run in group)}
            | experiments.mean_gains(group, MEASURES)
        )
        for (n, policy), group in cells.items()
    ]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    head = ["n", "policy", "seeds", "pairs", *(GAINS[name] for name in MEASURES)]
    lines = [HEAD, experiments.table_line(head), experiments.table_line(["---"] * len(head))]
    for row in rows:
        seeds = ", ".join(map(str, row["seeds"]))
        gains = [experiments.gain_cell(row, name) for name in MEASURES]
        lines.append(
            experiments.table_line([str(row["n"]), row["policy"], seeds, f"{row['pairs']:.0f}", *gains])
        )
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
        rows = summarize(experiments.read(ROOT, PREFIX, VARIED, ["pairs"]))
    except UserError as error:
        print(f"bench.sweep: {error}", file=sys.stderr)
        return 1
    experiments.write("sweep", rows, page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
