"""The charts of a run, from its metrics, its training curves and the counts of its rows."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medqa.report import charts, labels, tables
from medqa.report.charts import Series
from medqa.report.questions import BINS
from medqa.report.rows import Tab

TRAININGS = {"SFT": ("sft",), "DPO": ("dpo", "placebo", "oracle")}  # those of one row share its charts
CURVES = tuple(name for names in TRAININGS.values() for name in names)
CHOSEN, REJECTED, JUDGE = Series("chosen", "sft"), Series("rejected", "dpo"), Series("judge", "judge")
MEANS = {"score": "Judged score", "key_point_recall": "Key-point recall (no judge)"}
# The measures of each chart of gains. Measures of one scale share a chart; their marks differ by shape.
GAINS = {
    "Gain in judged score": {"score": JUDGE},
    "Gain in key-point recall": {"key_point_recall": JUDGE},
    "Gain in token F1 and ROUGE-L": {
        "token_f1": Series("token F1", "longer"),
        "rouge_l": Series("ROUGE-L", "likelier"),
    },
    "Gain in coverage of the reference": {"coverage": JUDGE},
    "Gain in log-likelihood of references, nats per token": {"reference_logprob": JUDGE},
}


def draw(
    metrics_folder: Path, metrics: dict[str, dict[str, Any]], questions: Tab, held_out: Tab
) -> dict[str, Sequence[Markup]]:
    """The charts of each section of the page; charts without data are left out."""
    curves = metrics_folder / "curves"
    sides = {"chosen": CHOSEN, "rejected": REJECTED}
    sections = {
        "mean_charts": [*_means(metrics), *_gains(metrics["compare"])],
        "histograms": [
            _scores(questions.scores),
            _lengths("Length of chosen and rejected", questions.words, sides),
            _lengths("Length of the models' answers", held_out.words, labels.MODELS),
        ],
        "curves": [chart for name in TRAININGS for chart in _training_charts(curves, name)],
        "judge_charts": [
            _agreement(metrics["agreement"].get("by", {})),
            _reliability(metrics["agreement"].get("reliability", [])),
        ],
    }
    return {name: [chart for chart in drawn if chart] for name, drawn in sections.items()}


def _means(metrics: dict[str, dict[str, Any]]) -> list[Markup]:
    drawn = []
    for measure, title in MEANS.items():
        rows = [
            (series.name, tables.dots(metrics[f"evaluate/{model}"], {measure: series}))
            for model, series in labels.MODELS.items()
        ]
        drawn.append(charts.dots(title, rows, 0, 1, None))
    return drawn


def _gains(compare: dict[str, Any]) -> list[Markup]:
    drawn = []
    for title, measures in GAINS.items():
        keys = {f"{name}_gain": series for name, series in measures.items()}
        rows = [(text, tables.dots(compare.get(name, {}), keys)) for name, text in labels.COMPARISONS.items()]
        drawn.append(charts.dots(title, rows, -0.1, 0.1, 0))
    return drawn


def _agreement(by_group: dict[str, dict[str, Any]]) -> Markup:
    """The judge and its baselines on all pairs and per label type; a table has the other groups."""
    prefix = "label type: "
    rows = [
        (name.removeprefix(prefix), tables.dots(metrics, labels.RANKERS))
        for name, metrics in by_group.items()
        if name == "all" or name.startswith(prefix)
    ]
    pairs = by_group.get("all", {}).get("rows", 0)
    return charts.dots(
        f"Agreement with the labels of {pairs:,} pairs, beside three baselines", rows, 0, 1, 0.5
    )


def _scores(counts: Counter[int]) -> Markup:
    edges = [edge / BINS for edge in range(BINS + 1)]
    heights = [counts[position] for position in range(BINS)]
    return charts.histogram(f"Scores of {counts.total():,} candidates", "score", edges, [(JUDGE, heights)])


def _lengths(title: str, counts: dict[str, Counter[int]], series: dict[str, Series]) -> Markup:
    edges, heights = charts.binned([counts[name] for name in series])
    x_label = f"words; the last step is {edges[-2]:,.0f} and more" if len(edges) > 2 else "words"
    each = max(counts[name].total() for name in series)
    title = f"{title}, {each:,} each"
    return charts.histogram(title, x_label, edges, list(zip(series.values(), heights, strict=True)))


def _training_charts(curves: Path, title: str) -> list[Markup]:
    """A chart per measure that the training curves have, with a line per model."""
    models = TRAININGS[title]
    rows = {model: _read_curve(curves / f"{model}.tsv") for model in models}

    def lines(column: str) -> list[tuple[Series, list[charts.Point]]]:
        return [(labels.MODELS[model], _points(rows[model], column)) for model in models]

    main = rows[models[0]]
    sides = [(CHOSEN, _points(main, "chosen_logprob")), (REJECTED, _points(main, "rejected_logprob"))]
    return [
        charts.lines(f"{title}: loss", "step", lines("loss")),
        charts.lines(f"{title}: reward margin", "step", lines("margin")),
        charts.lines(f"{title}: share of pairs ranked right", "step", lines("accuracy")),
        charts.lines(f"{title}: log-probability of the answers", "step", sides),
    ]


def _read_curve(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _points(rows: Sequence[dict[str, str]], column: str) -> list[charts.Point]:
    points = [(float(row["step"]), float(row[column])) for row in rows if row.get(column)]
    return [point for point in points if math.isfinite(point[1])]


def _reliability(bins: Sequence[dict[str, float]]) -> Markup:
    """The share of pairs that the judge ranks right, by the confidence that its margin implies."""
    right = [(bin["confidence"], bin["right"]) for bin in bins]
    ideal = [(confidence, confidence) for confidence, _ in right]
    series = [(JUDGE, right), (Series("as sure as right", "base"), ideal)]
    pairs = int(sum(bin["pairs"] for bin in bins))
    return charts.lines(
        f"Reliability on {pairs:,} pairs: share right, by confidence", "confidence (1 + margin) / 2", series
    )
