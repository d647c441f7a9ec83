"""The contents of the report: all results of a run, on one page that needs no network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medqa import compare, groups, hub, jsonl
from medqa.pairs import REASONS
from medqa.records import AttackResult
from medqa.report import browse, figures, labels, lineage, page, tables
from medqa.runtime.sections import Params

# The files that the report reads; dvc.yaml must list the same.
MODELS = ("base", "judge", "sft", "dpo", *compare.CONTROLS)
DATA = ["sft", "questions", "heldout", "labelled", "quarantine", "audit", "candidates", "judged", "pairs"]
DATA += [f"controls/{name}" for name in compare.CONTROLS]
DATA += [f"answers/{name}" for name in compare.MODELS]
DATA += ("agreement", "attacks")
METRICS = ["data", "models/base", "models/judge", "sft", "generate", "judge", "pairs", "dpo"]
METRICS += compare.CONTROLS
METRICS += [f"evaluate/{name}" for name in compare.MODELS]
METRICS += ("agreement", "compare")
BENCHMARKED = ("base", "sft", "dpo")
METRICS += [f"benchmark/{name}" for name in BENCHMARKED]

MAX_ATTACKS = 12
SECTIONS = (
    ("result", "Side by side"),
    ("groups", "By group"),
    ("funnel", "From source to pairs"),
    ("distributions", "Scores and lengths"),
    ("curves", "Training"),
    ("judge", "The judge"),
    ("rows", "Rows"),
    ("lineage", "Lineage"),
)

Metrics = dict[str, dict[str, Any]]  # by name, as in METRICS


@dataclass(frozen=True)
class RunPaths:
    """The files of a run: its dvc.yaml and its folders."""

    pipeline: Path
    data: Path
    metrics: Path
    models: Path


def build(run: RunPaths, params: Params) -> str:
    """The page of a run and its parameters, without those that cannot change a result.

    The same files and parameters give the same text. Raises UserError for a torn or foreign row.
    """
    metrics = read_metrics(run.metrics)
    questions = browse.question_tab(run.data, params.pairs, params.report.max_rows)
    held_out = browse.held_out_tab(run.data, params.compare.tie, params.report.max_rows)
    outcomes = {"pair": "a pair", **REASONS}
    shown_params = params.model_dump(mode="json", exclude={"compute"})
    return page.render(
        {
            "sections": SECTIONS,
            "labels": labels,
            "questions": questions,
            "held_out": held_out,
            "outcomes": outcomes,
            "words": labels.GAINS | outcomes,
            "kinds": _kinds,
            "attacks": _most_successful_attacks(run.data / "attacks.jsonl"),
            **_metrics_context(metrics),
            "training": _training(metrics),
            "limits": shown_params["compare"].get("guards", {}),
            **_lineage_context(run, metrics, shown_params),
            **figures.draw(run.metrics, metrics, questions, held_out),
        }
    )


def read_metrics(folder: Path) -> Metrics:
    """The metrics files of a run, by their names in METRICS."""
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in METRICS}


def _metrics_context(metrics: Metrics) -> dict[str, Any]:
    """The numbers of the page and its tables."""
    counts = metrics["data"]
    evaluations = {
        series.name: metrics[f"evaluate/{name}"]
        for name, series in labels.MODELS.items()
        if name not in switched_off(metrics)
    }
    return {
        "comparisons": {
            name: text for name, text in labels.COMPARISONS.items() if name in metrics["compare"]
        },
        "compare": metrics["compare"],
        "agreement": metrics["agreement"],
        "pairs": metrics["pairs"],
        "judged": metrics["judge"],
        "judge_name": metrics["evaluate/dpo"].get("judge", ""),
        "evaluations": evaluations,
        "measures": tables.measures(evaluations.values()),
        "by_chance": tables.no_better_than_chance(evaluations),
        "groups": tables.groups(metrics),
        "benchmarks": tables.benchmarks(
            {labels.MODELS[name].name: metrics[f"benchmark/{name}"]["by"] for name in BENCHMARKED}
        ),
        "min_rows": groups.MIN_ROWS,
        "labellers": counts.get("labelled", {}).get("labelled_by", {}),
        "describe_labellers": tables.labellers,
        "failed_guards": tables.failed_guards(metrics["compare"]),
        "failed_over_base": tables.failed_guards(metrics["compare"], "failed_guards_over_base"),
        "row_funnels": {
            title: tables.row_funnel(counts[name]["all"])
            for name, title in labels.OUTPUTS.items()
            if "all" in counts.get(name, {})
        },
        "pair_funnel": tables.pair_funnel(metrics),
    }


def switched_off(metrics: Metrics) -> list[str]:
    """The controls that params.yaml switches off: their files are there, and empty."""
    return [name for name in compare.CONTROLS if not metrics[name]["pairs"]]


def _training(metrics: Metrics) -> dict[str, str]:
    """The numbers of each training by the name of its model."""
    names = [name for name in ("sft", "dpo", *compare.CONTROLS) if name not in switched_off(metrics)]
    return {labels.MODELS[name].name: _training_summary(metrics, name) for name in names}


def _lineage_context(run: RunPaths, metrics: Metrics, shown_params: dict[str, Any]) -> dict[str, Any]:
    """The models, stages, files and parameters behind the page."""
    hidden = switched_off(metrics)
    return {
        "models": [
            {
                "name": name,
                "identity": hub.identity(run.models / name),
                "licence": hub.licence(run.models / name),
                "training": _training_summary(metrics, name),
            }
            for name in MODELS
            if name not in hidden
        ],
        "stages": lineage.stages(run.pipeline, shown_params["corpus"]),
        "files": lineage.files(run.data, [name for name in DATA if name.split("/")[-1] not in hidden]),
        "params": yaml.safe_dump(shown_params, sort_keys=False, allow_unicode=True, width=100),
    }


def _training_summary(metrics: Metrics, name: str) -> str:
    """The numbers of a model's training. Texts are left out: its identity covers those of a pin."""
    numbers = metrics.get(f"models/{name}", metrics.get(name, {})).items()
    return ", ".join(
        f"{labels.label({}, key)} {page.number(value)}"
        for key, value in numbers
        if not isinstance(value, str)
    )


def _kinds(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The kinds of the rows as the options of a filter."""
    return [(kind, kind) for kind in sorted({row["kind"] for row in rows if row["kind"]})]


def _most_successful_attacks(path: Path) -> list[AttackResult]:
    """The attacks that the judge scored highest."""
    scored = [row for row in jsonl.read(path, AttackResult) if row.score is not None]
    return sorted(scored, key=lambda row: (-(row.score or 0), row.id))[:MAX_ATTACKS]
