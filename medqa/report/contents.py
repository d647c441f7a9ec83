"""The report: all that a run found, on one page that needs no network and shows the rows behind its numbers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medqa import hub, jsonl
from medqa.records import AttackResult
from medqa.report import browse, charts, figures, lineage, page, tables
from medqa.runtime.sections import Params

# What it reads below the folders it is given; dvc.yaml must name the same.
MODELS = ("base", "judge", "sft", "dpo")
DATA = ("sft", "questions", "heldout", "labelled", "quarantine", "audit", "candidates", "judged", "pairs")
DATA += ("answers/base", "answers/sft", "answers/dpo", "agreement", "attacks")
METRICS = ("data", "models/base", "models/judge", "sft", "generate", "judge", "pairs", "dpo")
METRICS += ("evaluate/base", "evaluate/sft", "evaluate/dpo", "agreement", "compare")

SPLITS = {"questions": "Preference questions", "sft": "SFT rows", "held_out": "Held-out questions"}
SPLITS |= {"labelled": "Labelled pairs"}
ATTACKS_SHOWN = 12
CONTENTS = (
    ("result", "Side by side"),
    ("funnel", "From source to pairs"),
    ("distributions", "Scores and lengths"),
    ("curves", "Training"),
    ("judge", "The judge"),
    ("rows", "Rows"),
    ("lineage", "Lineage"),
)


@dataclass(frozen=True)
class Folders:
    """Where a run lies."""

    pipeline: Path
    data: Path
    metrics: Path
    models: Path


def build(run: Folders, params: Params) -> str:
    """The page of a run and its parameters, without those that cannot change a result.

    The same files and parameters give the same text. Raises UserError for a torn or foreign row.
    """
    measured = {
        name: json.loads((run.metrics / f"{name}.json").read_text(encoding="utf-8")) for name in METRICS
    }
    limit = params.report.max_rows
    asked = browse.preference_questions(run.data, params.pairs, limit)
    held = browse.held_out_questions(run.data, params.compare.tie, limit)
    reasons = {"pair": "a pair", **tables.REASONS}
    shown = params.model_dump(mode="json", exclude={"compute"})
    return page.render(
        {
            "compare": measured["compare"],
            "agreement": measured["agreement"],
            "judge_name": measured["evaluate/dpo"].get("judge", ""),
            "models": {name: hub.identity(run.models / name) for name in MODELS},
            "licences": {name: hub.licence(run.models / name) for name in MODELS},
            "made": {name: _made(measured, name) for name in MODELS},
            "stages": lineage.stages(run.pipeline, params.corpus),
            "files": lineage.files(run.data, DATA),
            "params": yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100),
            "asked": asked,
            "held": held,
            "kinds": _kinds,
            "bar": charts.bar,
            "contents": CONTENTS,
            "step_labels": tables.STEPS.values(),
            "reasons": reasons,
            "words": tables.GAINS | reasons,
            **_tables(measured, shown["compare"].get("guards", {})),
            **figures.draw(run.metrics, run.data, measured, asked, held),
            "attacks": _worst(run.data / "attacks.jsonl"),
        }
    )


def _tables(measured: dict[str, dict[str, Any]], limits: dict[str, Any]) -> dict[str, Any]:
    evaluations = {name: measured[f"evaluate/{name}"] for name in tables.MODELS}
    counts = measured["data"]
    return {
        "measures": tables.side_by_side(evaluations),
        "gains": tables.gains(measured["compare"]),
        "failed": tables.failed(measured["compare"]),
        "guards": tables.guards(measured["compare"], limits),
        "funnels": {
            title: tables.funnel(counts[name]["all"])
            for name, title in SPLITS.items()
            if "all" in counts.get(name, {})
        },
        "pair_funnel": tables.pair_funnel(measured["pairs"].get("questions", 0), measured),
        "pairs": measured["pairs"],
        "judged": measured["judge"],
        "trained": {"SFT": _made(measured, "sft"), "DPO": _made(measured, "dpo")},
        "agreed": tables.agreement(measured["agreement"].get("by", {})),
    }


def _made(measured: dict[str, dict[str, Any]], name: str) -> str:
    """How a model came about: its training in a few figures. What a pin holds is its identity already."""
    told = measured.get(f"models/{name}", measured.get(name, {}))
    parts = [
        f"{tables.spoken(key)} {page.number(value)}"
        for key, value in told.items()
        if not isinstance(value, str)
    ]
    return ", ".join(parts)


def _kinds(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The kinds that there are to filter by, for a list of choices."""
    return [(kind, kind) for kind in sorted({row["kind"] for row in rows if row["kind"]})]


def _worst(path: Path) -> list[AttackResult]:
    """The attacks that the judge liked best."""
    scored = [row for row in jsonl.read(path, AttackResult) if row.score is not None]
    return sorted(scored, key=lambda row: (-row.score, row.id))[:ATTACKS_SHOWN]
