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
from medqa.report import (
    denominators,
    figures,
    held_out,
    labels,
    lineage,
    page,
    questions,
    rows,
    run_card,
    tables,
)
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
METRICS += [f"benchmark/{name}" for name in compare.TRAINED]

MAX_ATTACKS = 8
SECTIONS = (
    ("samples", "Sample answers"),
    ("result", "Side by side"),
    ("groups", "By group"),
    ("judge", "The judge"),
    ("rows", "Rows"),
    ("funnel", "From source to pairs"),
    ("distributions", "Scores and lengths"),
    ("curves", "Training"),
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
    preferences = questions.question_tab(run.data, params.pairs, params.report.max_rows)
    answered = held_out.read(run.data)
    tab = held_out.held_out_tab(answered, params.compare.tie, params.report.max_rows)
    attacks = tables.attack_margins(jsonl.read(run.data / "attacks.jsonl", AttackResult))
    shown_params = params.model_dump(mode="json", exclude={"compute"})
    return page.render(
        {
            "sections": SECTIONS,
            "labels": labels,
            "run_card": run_card.facts(run.models, metrics, _trained(metrics), params),
            "questions": preferences,
            "held_out": tab,
            **_held_out_context(answered, metrics, params.compare.tie),
            **_row_context(tab, metrics),
            "attacks": tables.best_tries(attacks)[:MAX_ATTACKS],
            "successful_attacks": sum(margin >= 0 for _, margin in attacks),
            **_metrics_context(metrics),
            "limits": shown_params["compare"].get("guards", {}),
            **_lineage_context(run, metrics, shown_params),
            **figures.draw(run.metrics, metrics, preferences, tab),
        }
    )


def read_metrics(folder: Path) -> Metrics:
    """The metrics files of a run, by their names in METRICS."""
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in METRICS}


def _held_out_context(
    answered: Sequence[held_out.AnsweredQuestion], metrics: Metrics, tie: float
) -> dict[str, Any]:
    """What the page says of single held-out questions, and how many each number is a mean over."""
    return {
        "samples": held_out.samples(answered, metrics["compare"].get("worst_group", {}).get("name", "")),
        "tallies": held_out.tallies(answered, tie),
        "denominators": denominators.of_measures(question.answers for question in answered),
        "gain_denominators": denominators.of_gains(question.answers for question in answered),
    }


def _row_context(tab: rows.Tab, metrics: Metrics) -> dict[str, Any]:
    """The names and the choices of the browser of rows."""
    outcomes = {"pair": "a pair", **REASONS}
    return {
        "outcomes": outcomes,
        "words": labels.GAINS | outcomes,
        "score_names": {"questions": rows.QUESTION_SCORES, "held-out": rows.ANSWER_SCORES},
        "kinds": _kinds,
        "results": _results([name for name in labels.COMPARISONS if name in metrics["compare"]]),
        "row_groups": [(name, name) for name in sorted({name for row in tab.rows for name in row["groups"]})],
    }


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
            {labels.MODELS[name].name: metrics[f"benchmark/{name}"]["by"] for name in compare.TRAINED}
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


def _trained(metrics: Metrics) -> list[str]:
    """The models that training made."""
    return [name for name in ("sft", "dpo", *compare.CONTROLS) if name not in switched_off(metrics)]


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
        "training": {
            labels.MODELS[name].name: _training_summary(metrics, name) for name in _trained(metrics)
        },
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


def _results(comparisons: Sequence[str]) -> list[tuple[str, str]]:
    """What a comparison can say of a row, as the options of a filter."""
    results = {"": "compared"} | {f"-{name}": word for name, word in labels.RESULTS.items()}
    return [
        (f"{comparison}{suffix}", f"{labels.COMPARISONS[comparison]}: {word}")
        for comparison in comparisons
        for suffix, word in results.items()
    ]


def _kinds(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The kinds of the rows as the options of a filter."""
    return [(kind, kind) for kind in sorted({row["kind"] for row in rows if row["kind"]})]
