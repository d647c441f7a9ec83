"""docs/processors.md and the JSON behind it: the embedded run with more and with fewer vector instructions.

`python -m bench.processors run` runs it for each seed and each set of instructions, one after the other.
`python -m bench.processors table` then makes the table.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

from bench import experiments
from bench.checkout import DVC, ROOT
from bench.experiments import Experiment
from medqa import jsonl
from medqa.report.labels import GAINS
from medqa.runtime.errors import UserError

SEEDS, PREFIX = (0, 1, 2), "processor-"  # of the names of the experiments
MODELS, ENDS = ("base", "sft", "dpo"), ("", "_low", "_high")
MEASURES = ("score", "token_f1", "key_point_recall")
# What torch and its libraries are limited to, by the variables that they read.
INSTRUCTIONS = {
    "AVX512": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}


def run(folder: Path, instructions: str, seed: int) -> None:
    """Run the pipeline wholly, without rows of another run. Raises CalledProcessError if it fails."""
    command = [*DVC, "exp", "run", "--temp", "--force", "--name", f"{PREFIX}{instructions}-seed{seed}"]
    command += ["-S", f"seed={seed}", "-S", "compute.row_cache=false"]
    environment = os.environ | INSTRUCTIONS[instructions]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def summarize(runs: Sequence[Experiment]) -> list[dict[str, Any]]:
    """A row per run, and after those of the same instructions one for all of them."""
    rows = []
    for instructions, group in groupby(runs, key=lambda run: run.name.split("-")[1]):
        seeds = list(group)
        scores = [{key: run.metrics["summary"][f"score_{key}"] for key in MODELS} for run in seeds]
        for run, score in zip(seeds, scores, strict=True):
            row = {"instructions": instructions, "seed": str(run.varied["seed"]), **score}
            row |= experiments.mean_gains([run], MEASURES)
            over_placebo = run.metrics["compare"]["dpo_over_placebo"]
            row |= {f"over_placebo_gain{end}": over_placebo[f"token_f1_gain{end}"] for end in ENDS}
            rows.append(row | {"verdict": run.metrics["compare"]["verdict"]})
        means = {key: sum(score[key] for score in scores) / len(scores) for key in MODELS}
        row = {"instructions": instructions, "seed": "all", **means}
        rows.append(row | experiments.mean_gains(seeds, MEASURES) | {"verdict": ""})
    return [jsonl.rounded(row) for row in rows]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    head = ["instructions", "seed", "base", "SFT", "DPO", *(GAINS[name] for name in MEASURES)]
    head += ["token F1 over the placebo", "verdict"]
    lines = [HEAD, experiments.table_line(head), experiments.table_line(["---"] * len(head))]
    for row in rows:
        scores = [f"{row[key]:.3f}" for key in MODELS]
        gains = [experiments.gain_cell(row, name) for name in (*MEASURES, "over_placebo")]
        cells = [row["instructions"], row["seed"], *scores, *gains, row["verdict"]]
        lines.append(experiments.table_line(cells))
    largest = {key: max(differences(rows, key)) for key in MODELS}
    sentence = "With the same seed, the scores of base, SFT and DPO differ by at most {}, {} and {}."
    lines += ["", sentence.format(*(f"{largest[key]:.3f}" for key in MODELS))]
    return "\n".join(lines) + "\n"


def differences(rows: Sequence[dict[str, Any]], model: str) -> list[float]:
    """Per seed, how far the scores of a model are apart."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["seed"] != "all":
            scores.setdefault(row["seed"], []).append(row[model])
    return [max(values) - min(values) for values in scores.values()]


HEAD = """# Two kinds of processor

The same code, data and seed give other last digits on a processor with other vector instructions; training
makes them grow. Here is the embedded run with all instructions of one processor, and with torch, oneDNN and
MKL limited to AVX2, as an older processor has them. Each row is a whole run without rows of another. Scores
are those of the judge on open held-out questions. Gains are those of DPO over SFT, with 95% intervals over
questions, and in the rows *all* over seeds and questions. Made by `python -m bench.processors table` from the
experiments that `python -m bench.processors run` made; the numbers are in [processors.json](processors.json).
"""


def main() -> int:
    """Run the experiments, or write docs/processors.json and docs/processors.md from those that are there."""
    parser = argparse.ArgumentParser(prog="python -m bench.processors", description=main.__doc__)
    parser.add_argument("action", choices=("run", "table"))
    options = parser.parse_args()
    if options.action == "run":
        for instructions, seed in product(INSTRUCTIONS, SEEDS):
            run(ROOT, instructions, seed)
        return 0
    try:
        rows = summarize(experiments.read(ROOT, PREFIX, ["seed"], ["summary", "compare"]))
    except UserError as error:
        print(f"bench.processors: {error}", file=sys.stderr)
        return 1
    experiments.write("processors", rows, page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
