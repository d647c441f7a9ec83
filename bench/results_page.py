"""The page docs/results.md, from the JSON that `bench.results` collects."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from medqa.report import labels

MEASURES = {
    "score": "judged score",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "coverage": "coverage of the reference",
    "reference_logprob": "log-likelihood of the reference, nats per token",
    "key_point_recall": "key-point recall",
    "repetition": "repetition (lower is better)",
    "cut_off": "share cut off (lower is better)",
}
MISSING = "–"


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    experiments = result["experiments"]
    seeds = [f"seed {experiment['seed']}" for experiment in experiments]
    lines = [HEAD.format(seeds=", ".join(seeds), machine=_machine(result["machine"]))]
    changes = {f"{key} = {value}" for run in experiments for key, value in run["other"].items()}
    if changes:
        lines += [f"Other than in the preset as it is now: {', '.join(sorted(changes))}.", ""]
    if "verdict" in result:
        lines += [f"Over all seeds the verdict is {result['verdict']}.", ""]
    if result.get("over_seeds"):
        lines += [OVER_SEEDS]
    models = _evaluated_models(experiments)
    lines += ["## Each model", "", *_header(["", *models])]
    for measure, label in MEASURES.items():
        values = [
            [run["metrics"][f"evaluate/{model}"].get(measure) for run in experiments] for model in models
        ]
        lines += _row_with_values(label, map(_mean, values))
    for comparison, title in labels.COMPARISONS.items():
        gains = [run["metrics"]["compare"].get(comparison, {}) for run in experiments]
        if all(gains):
            lines += ["", f"## {title}", "", *_header(["gain", *seeds, "mean"])]
            lines += _gains(gains, result.get("over_seeds", {}).get(comparison, {}))
    lines += ["", "## The judge", "", *_header(["", *seeds]), *_judge(experiments)]
    lines += ["", "## Time and memory", "", *_header(["stage", *seeds, "peak GB"]), *_times(experiments)]
    lines += ["", "## Answers", "", ANSWERS, *_answers(result["samples"], models)]
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
OVER_SEEDS = """The interval of a mean is over seeds and questions (hierarchical bootstrap); \
with few seeds it is rather too
narrow. The placebo is DPO on the same pairs, half of them turned round at random; the oracle is DPO on pairs
that token F1 ranks.
"""


def _evaluated_models(experiments: Sequence[dict[str, Any]]) -> list[str]:
    """The models that all experiments have: each may switch off the controls of DPO."""
    metrics = [experiment["metrics"] for experiment in experiments]
    return [
        model
        for model in labels.MODELS
        if all(run.get(f"evaluate/{model}", {}).get("questions") for run in metrics)
    ]


def _gains(by_seed: Sequence[dict[str, Any]], over_seeds: dict[str, float]) -> list[str]:
    """A line per measure: the gain of each seed, and the mean with its interval where that was computed."""
    lines = []
    for measure, label in MEASURES.items():
        name = f"{measure}_gain"
        mean = _interval(over_seeds, name) if over_seeds else _mean(gain.get(name) for gain in by_seed)
        lines += _row_with_values(label, [*(_interval(gain, name) for gain in by_seed), mean])
    return lines


def _answers(samples: Sequence[dict[str, Any]], models: Sequence[str]) -> list[str]:
    lines = []
    for sample in samples:
        answers = {model: sample[model] for model in models}
        lines += [f"**{sample['question']}**", ""]
        for model, answer in answers.items():
            lines.append(f"- {model} (token F1 {answer['token_f1']:.2f}): {' '.join(answer['text'].split())}")
        lines.append("")
    return lines


def _judge(experiments: Sequence[dict[str, Any]]) -> list[str]:
    metrics = [experiment["metrics"] for experiment in experiments]
    agreement = [run["agreement"] for run in metrics]
    rows = {
        "agreement with labels": [_interval(run["by"]["all"], "agreement") for run in agreement],
        "*longer wins*": [_interval(run["by"]["all"], "longer_wins") for run in agreement],
        "*likelier wins*": [_interval(run["by"]["all"], "likelier_wins") for run in agreement],
        "*more similar wins*": [_interval(run["by"]["all"], "more_similar_wins") for run in agreement],
        **{
            f"best candidate above worst {text}": [
                _interval(run.get("judge", {}).get("order", {}).get(name, {}), "agreement") for run in metrics
            ]
            for name, text in labels.ORDERS.items()
        },
        "unseen lessons right": [_mean([run["models/judge"]["validation_accuracy"]]) for run in metrics],
        "attacks that succeed": [_mean([run["attacks"]["attack_rate"]]) for run in agreement],
        "pairs for DPO": [str(run["pairs"]["pairs"]) for run in metrics],
        "verdict": [_verdict(run["compare"]) for run in metrics],
    }
    return [line for label, cells in rows.items() for line in _row_with_values(label, cells)]


def _verdict(compared: dict[str, Any]) -> str:
    return ": ".join(compared[key] for key in ("verdict", "reason") if key in compared)


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


def _row_with_values(label: str, cells: Iterable[str]) -> list[str]:
    """A row, or none where no cell has a value: an earlier version of the code did not measure it."""
    values = list(cells)
    return [_row([label, *values])] if set(values) != {MISSING} else []


def _mean(values: Iterable[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{fmean(numbers):.3f}" if numbers else MISSING


def _interval(metrics: dict[str, Any], name: str) -> str:
    if name not in metrics:
        return MISSING
    return f"{metrics[name]:.3f} ({metrics[f'{name}_low']:.3f} to {metrics[f'{name}_high']:.3f})"


def _machine(machine: dict[str, Any]) -> str:
    kind = "with bfloat16" if machine["bfloat16"] else "without bfloat16"
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''} per run"
    return f"{machine['processor']}, {machine['cores']} cores {kind}, {machine['memory_gb']} GB, {threads}"
