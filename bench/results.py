"""docs/results.md and the JSON behind it, from finished experiments: `python -m bench.results NAME NAME`.

Each experiment is a seed of one preset, run by `dvc exp run --queue -S seed=…`. Numbers come from the metrics
of each, sample answers from the rows of the first, times and memory from the logs of the stages.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import yaml

from bench import runs, stage_log
from bench.checkout import DVC, ROOT
from medqa.commands import doctor
from medqa.report.labels import COMPARISONS

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


METRICS = (
    "data",
    "agreement",
    "compare",
    "pairs",
    "models/judge",
    *(f"evaluate/{model}" for model in MODELS),
)


def experiment(name: str) -> dict[str, Any]:
    """The parameters, metrics and stages of an experiment. Raises CalledProcessError if it does not exist."""
    commit = _commit(name)
    params = yaml.safe_load(_output("git", "show", f"{commit}:params.yaml"))
    return {
        "name": name,
        "seed": params["seed"],
        "other": differences(params),
        "metrics": {
            path: json.loads(_output("git", "show", f"{commit}:metrics/{path}.json")) for path in METRICS
        },
        "stages": stages(_output(*DVC, "queue", "logs", name)),
    }


def differences(params: dict[str, Any]) -> dict[str, str]:
    """The parameters that differ from the preset as it is now, but for seed and corpus, and their values."""
    preset = doctor.flat(yaml.safe_load(PRESET.read_text(encoding="utf-8")))
    return {
        key: value
        for key, value in doctor.flat(params).items()
        if preset.get(key) != value and key not in ("seed", "corpus")
    }


def stages(log: str) -> list[dict[str, Any]]:
    """Each stage in a log, with its seconds and peak memory in GB."""
    return list(stage_log.stages(re.split(r"[\r\n]+", log)))


def samples(name: str) -> list[dict[str, Any]]:
    """The answers to three held-out questions: where DPO's token F1 is highest, in the middle and lowest."""
    import dvc.api

    def rows(path: str) -> dict[str, dict[str, Any]]:
        text = dvc.api.read(path, rev=_commit(name))
        return {row["id"]: row for row in map(json.loads, text.splitlines())}

    answers = {model: rows(f"data/answers/{model}.jsonl") for model in MODELS}
    held_out = rows("data/heldout.jsonl")
    order = sorted((row["token_f1"], key) for key, row in answers["dpo"].items() if row["correct"] is None)
    shown = ("text", "token_f1", "score")  # the references are not ours to copy
    return [
        {
            "question": held_out[key]["question"],
            **{model: {part: answers[model][key][part] for part in shown} for model in MODELS},
        }
        for _, key in (order[-1], order[len(order) // 2], order[0])
    ]


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    experiments = result["experiments"]
    seeds = [f"seed {experiment['seed']}" for experiment in experiments]
    lines = [HEAD.format(seeds=", ".join(seeds), machine=_machine(result["machine"]))]
    changes = {f"{key} = {value}" for run in experiments for key, value in run["other"].items()}
    if changes:
        lines += [f"Other than in the preset as it is now: {', '.join(sorted(changes))}.", ""]
    lines += ["## Each model", "", *_header(["", *MODELS])]
    for measure, label in MEASURES.items():
        values = [
            [run["metrics"][f"evaluate/{model}"].get(measure) for run in experiments] for model in MODELS
        ]
        lines.append(_row([label, *map(_mean, values)]))
    for comparison, title in COMPARISONS.items():
        gains = [run["metrics"]["compare"][comparison] for run in experiments]
        lines += ["", f"## {title}", "", *_header(["gain", *seeds, "mean"])]
        for measure, label in MEASURES.items():
            cells = [_interval(gain, f"{measure}_gain") for gain in gains]
            lines.append(_row([label, *cells, _mean(gain.get(f"{measure}_gain") for gain in gains)]))
    lines += ["", "## The judge", "", *_header(["", *seeds]), *_judge(experiments)]
    lines += ["", "## Time and memory", "", *_header(["stage", *seeds, "peak GB"]), *_times(experiments)]
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
`presets/smollm2-files.yaml`, {seeds}; each seed is a whole run of the pipeline. \
Differences are paired over the same
held-out questions, with 95% bootstrap intervals. \
Made by `python -m bench.results` from [results.json](results.json),
on {machine}.
"""
ANSWERS = """Of the first seed: \
the question on which DPO's token F1 is highest, the one in the middle, and the one on
which it is lowest.
"""


def _judge(experiments: Sequence[dict[str, Any]]) -> list[str]:
    metrics = [experiment["metrics"] for experiment in experiments]
    agreement = [run["agreement"] for run in metrics]
    rows = {
        "agreement with labels": [_interval(run["by"]["all"], "agreement") for run in agreement],
        "*longer wins*": [_interval(run["by"]["all"], "longer_wins") for run in agreement],
        "*likelier wins*": [_interval(run["by"]["all"], "likelier_wins") for run in agreement],
        "unseen lessons right": [_mean([run["models/judge"]["validation_accuracy"]]) for run in metrics],
        "attacks that succeed": [_mean([run["attacks"]["attack_rate"]]) for run in agreement],
        "pairs for DPO": [str(run["pairs"]["pairs"]) for run in metrics],
        "verdict": [run["compare"]["verdict"] for run in metrics],
    }
    return [_row([label, *cells]) for label, cells in rows.items()]


def _times(experiments: Sequence[dict[str, Any]]) -> list[str]:
    runs_by_stage = [{row["stage"]: row for row in experiment["stages"]} for experiment in experiments]
    lines = []
    for name in dict.fromkeys(name for rows in runs_by_stage for name in rows):
        rows = [stages.get(name) for stages in runs_by_stage]
        cells = [f"{row['seconds']:,} s" if row else "kept" for row in rows]
        lines.append(_row([name, *cells, _peak(row for row in rows if row)]))
    totals = [f"{sum(row['seconds'] for row in rows.values()) / 60:.0f} min" for rows in runs_by_stage]
    peak = _peak(row for rows in runs_by_stage for row in rows.values())
    return [*lines, _row(["all", *totals, peak])]


def _peak(rows: Iterable[dict[str, Any]]) -> str:
    return f"{max(row['peak_gb'] for row in rows):.1f}"


def _header(names: Sequence[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Iterable[float | None]) -> str:
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


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write docs/results.json and docs/results.md from the named experiments."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="+", help="experiments, one per seed")
    names = parser.parse_args().names
    experiments = [experiment(name) for name in names]
    result = {"machine": runs.machine(), "experiments": experiments, "samples": samples(names[0])}
    DOCS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (DOCS / "results.json").write_text(text, encoding="utf-8")
    (DOCS / "results.md").write_text(page(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
