"""docs/results.md and the JSON behind it, from finished experiments: `python -m bench.results NAME NAME
NAME`.

Each experiment is a seed of one preset, run by `dvc exp run --queue -S seed=…`. Numbers come from the metrics
of each, sample answers from the rows of the first, times and memory from what the stages said.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from bench import runs
from bench.rehearsal import ENDED, STARTED
from medqa.commands import doctor
from medqa.report.tables import STEPS

ROOT = Path(__file__).parent.parent
DOCS, PRESET = ROOT / "docs", ROOT / "presets" / "smollm2-files.yaml"
MEASURES = {
    "score": "judged score",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "reference_logprob": "log-likelihood of the reference, nats per token",
    "key_point_recall": "key-point recall",
    "repetition": "repetition (lower is better)",
    "cut_off": "share cut off (lower is better)",
}
MODELS = ("base", "sft", "dpo")


def experiment(name: str) -> dict[str, Any]:
    """The parameters, metrics and stages of one experiment. Raises CalledProcessError for one that is not
    there.
    """
    params = yaml.safe_load(_output("git", "show", f"{_commit(name)}:params.yaml"))
    paths = [
        "data",
        "agreement",
        "compare",
        "pairs",
        "models/judge",
        *(f"evaluate/{model}" for model in MODELS),
    ]
    metrics = {
        path: json.loads(_output("git", "show", f"{_commit(name)}:metrics/{path}.json")) for path in paths
    }
    others = differences(params)
    return {
        "name": name,
        "seed": params["seed"],
        "other": others,
        "metrics": metrics,
        "stages": stages(_log(name)),
    }


def differences(params: dict[str, Any]) -> dict[str, str]:
    """The keys, but for seed and corpus, under which parameters differ from the preset as it is now; their
    values.
    """
    preset = doctor.flat(yaml.safe_load(PRESET.read_text(encoding="utf-8")))
    return {
        key: value
        for key, value in doctor.flat(params).items()
        if preset.get(key) != value and key not in ("seed", "corpus")
    }


def stages(log: str) -> list[dict[str, Any]]:
    """Each stage that a log tells of, with its seconds and peak memory in GB."""
    rows, stage = [], ""
    for line in re.split(r"[\r\n]+", log):
        if match := STARTED.search(line):
            stage = match[1]
        elif match := ENDED.match(line.strip()):
            rows.append(
                {"stage": stage, "seconds": int(match[2]), "peak_gb": float(match[3]), "said": match[1]}
            )
    return rows


def samples(name: str) -> list[dict[str, Any]]:
    """Three held-out questions, with each model's answer: where DPO's token F1 is highest, in the middle,
    lowest.
    """
    import dvc.api

    def rows(path: str) -> dict[str, dict[str, Any]]:
        text = dvc.api.read(path, rev=_commit(name))
        return {row["id"]: row for row in map(json.loads, text.splitlines())}

    answers = {model: rows(f"data/answers/{model}.jsonl") for model in MODELS}
    held_out = rows("data/heldout.jsonl")
    order = sorted((row["token_f1"], key) for key, row in answers["dpo"].items() if row["correct"] is None)
    chosen = [key for _, key in (order[-1], order[len(order) // 2], order[0])]
    return [
        {
            "question": held_out[key]["question"],  # the references are not ours to copy
            **{
                model: {part: answers[model][key][part] for part in ("text", "token_f1", "score")}
                for model in MODELS
            },
        }
        for key in chosen
    ]


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    experiments = result["experiments"]
    seeds = [f"seed {one['seed']}" for one in experiments]
    lines = [HEAD.format(seeds=", ".join(seeds), machine=_machine(result["machine"]))]
    if others := {f"{key} = {value}" for one in experiments for key, value in one["other"].items()}:
        lines += [f"Other than in the preset as it is now: {', '.join(sorted(others))}.", ""]
    lines += ["## Each model", "", *_table(["", *MODELS])]
    for measure, label in MEASURES.items():
        cells = [
            _mean(one["metrics"][f"evaluate/{model}"].get(measure) for one in experiments) for model in MODELS
        ]
        lines.append(_row([label, *cells]))
    for step, title in STEPS.items():
        lines += ["", f"## {title}", "", *_table(["gain", *seeds, "mean"])]
        for measure, label in MEASURES.items():
            gains = [one["metrics"]["compare"][step] for one in experiments]
            cells = [_interval(gain, f"{measure}_gain") for gain in gains]
            lines.append(_row([label, *cells, _mean(gain.get(f"{measure}_gain") for gain in gains)]))
    lines += ["", "## The judge", "", *_table(["", *seeds]), *_judge(experiments)]
    lines += ["", "## Time and memory", "", *_table(["stage", *seeds, "peak GB"]), *_times(experiments)]
    lines += ["", "## Answers", "", ANSWERS]
    for sample in result["samples"]:
        lines += [f"**{sample['question']}**", ""]
        for model in MODELS:
            answer = sample[model]
            lines.append(f"- {model} (token F1 {answer['token_f1']:.2f}): {' '.join(answer['text'].split())}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


HEAD = """# Real weights: what came out

SmolLM2-135M-Instruct, quantised to four bits, on MedQuAD's short answers (NIH, at most 80 words):
`presets/smollm2-files.yaml`, {seeds}; each seed is a whole run of the pipeline. Differences are paired over the same
held-out questions, with 95% bootstrap intervals. Made by `python -m bench.results` from [results.json](results.json),
on {machine}.
"""
ANSWERS = """Of the first seed: the question on which DPO's token F1 is highest, the one in the middle, and the one on
which it is lowest.
"""


def _judge(experiments: Sequence[dict[str, Any]]) -> list[str]:
    agreement = [one["metrics"]["agreement"] for one in experiments]
    rows = {
        "agreement with labels": [_interval(one["by"]["all"], "agreement") for one in agreement],
        "*longer wins*": [_interval(one["by"]["all"], "longer_wins") for one in agreement],
        "*likelier wins*": [_interval(one["by"]["all"], "likelier_wins") for one in agreement],
        "unseen lessons right": [
            _mean([one["metrics"]["models/judge"]["validation_accuracy"]]) for one in experiments
        ],
        "attacks that succeed": [_mean([one["attacks"]["attack_rate"]]) for one in agreement],
        "pairs for DPO": [str(one["metrics"]["pairs"]["pairs"]) for one in experiments],
        "verdict": [one["metrics"]["compare"]["verdict"] for one in experiments],
    }
    return [_row([label, *cells]) for label, cells in rows.items()]


def _times(experiments: Sequence[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(row["stage"] for one in experiments for row in one["stages"]))
    spent = [{row["stage"]: row for row in one["stages"]} for one in experiments]
    lines = []
    for name in names:
        rows = [one.get(name) for one in spent]
        cells = [f"{row['seconds']:,} s" if row else "kept" for row in rows]
        lines.append(_row([name, *cells, f"{max(row['peak_gb'] for row in rows if row):.1f}"]))
    totals = [f"{sum(row['seconds'] for row in one.values()) / 60:.0f} min" for one in spent]
    return [
        *lines,
        _row(["all", *totals, f"{max(row['peak_gb'] for one in spent for row in one.values()):.1f}"]),
    ]


def _table(names: Sequence[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Any) -> str:
    numbers = [value for value in values if value is not None]
    return f"{fmean(numbers):.3f}" if numbers else "–"


def _interval(metrics: dict[str, Any], name: str) -> str:
    if name not in metrics:
        return "–"
    return f"{metrics[name]:.3f} ({metrics[f'{name}_low']:.3f} to {metrics[f'{name}_high']:.3f})"


def _machine(machine: dict[str, Any]) -> str:
    kind = "with bfloat16" if machine["bfloat16"] else "without bfloat16"
    return f"{machine['processor']}, {machine['cores']} cores {kind}, {machine['memory_gb']} GB"


def _commit(name: str) -> str:
    return _output("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}").split()[0]


def _log(name: str) -> str:
    return _output(sys.executable, "-m", "dvc", "queue", "logs", name)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write docs/results.json and docs/results.md from the experiments that are named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="+", help="experiments, a seed each")
    options = parser.parse_args()
    experiments = [experiment(name) for name in options.names]
    result = {"machine": runs.machine(), "experiments": experiments, "samples": samples(options.names[0])}
    DOCS.mkdir(exist_ok=True)
    (DOCS / "results.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (DOCS / "results.md").write_text(page(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
