"""What the report draws: the charts of a run from its metrics, its curves and the counts of its rows."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medqa import jsonl
from medqa.records import JudgedPair
from medqa.report import charts, tables
from medqa.report.browse import Browsed
from medqa.report.charts import Series

CURVES = ("sft", "dpo")
CHOSEN, REJECTED, JUDGE = Series("chosen", "sft"), Series("rejected", "dpo"), Series("judge", "judge")
# What each chart of gains shows. Measures of one scale share a chart; their marks differ by shape.
GAINS = {
    "Gain in judged score": {"score": JUDGE},
    "Gain in key-point recall": {"key_point_recall": JUDGE},
    "Gain in token F1 and ROUGE-L": {
        "token_f1": Series("token F1", "longer"),
        "rouge_l": Series("ROUGE-L", "likelier"),
    },
    "Gain in log-likelihood of references, nats per token": {"reference_logprob": JUDGE},
}


def draw(
    metrics: Path, data: Path, measured: dict[str, dict[str, Any]], asked: Browsed, held: Browsed
) -> dict[str, Sequence[Markup]]:
    """The charts of each part of the page; those that have nothing to show are left out."""
    agreement = measured["agreement"].get("by", {})
    groups = {
        "mean_charts": [*_means(measured), *_gains(measured["compare"])],
        "histograms": [
            _scores(asked.scores),
            _lengths("Length of chosen and rejected", asked.words, {"chosen": CHOSEN, "rejected": REJECTED}),
            _lengths("Length of the models' answers", held.words, tables.MODELS),
        ],
        "curves": [chart for name in CURVES for chart in _curves(metrics / "curves" / f"{name}.tsv", name)],
        "judge_charts": [_agreement(agreement), _by_margin(data / "agreement.jsonl")],
    }
    return {name: [chart for chart in some if chart] for name, some in groups.items()}


def _means(measured: dict[str, dict[str, Any]]) -> list[Markup]:
    found = []
    for name, title in (("score", "Judged score"), ("key_point_recall", "Key-point recall (no judge)")):
        told = {key: measured[f"evaluate/{key}"] for key in tables.MODELS}
        rows = [(series.name, tables.dot(series, told[key], name)) for key, series in tables.MODELS.items()]
        found.append(charts.dots(title, rows, 0, 1, None))
    return found


def _gains(compare: dict[str, Any]) -> list[Markup]:
    drawn = []
    for title, measures in GAINS.items():
        rows = []
        for key, label in tables.STEPS.items():
            dots = [
                tables.dot(series, compare.get(key, {}), f"{name}_gain") for name, series in measures.items()
            ]
            rows.append((label, sum(dots, [])))
        drawn.append(charts.dots(title, rows, -0.1, 0.1, 0))
    return drawn


def _scores(counts: Counter[int]) -> Markup:
    heights = [counts[place] for place in range(20)]
    return charts.histogram("Scores of the candidates", "score", charts.TWENTIETHS, [(JUDGE, heights)])


def _lengths(title: str, counts: dict[str, Counter[int]], series: dict[str, Series]) -> Markup:
    edges, heights = charts.binned([counts[name] for name in series])
    label = f"words; the last step is {edges[-2]:,.0f} and more" if len(edges) > 2 else "words"
    return charts.histogram(title, label, edges, list(zip(series.values(), heights, strict=True)))


def _curves(path: Path, name: str) -> list[Markup]:
    """A chart for each of the columns that a curve has."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    def line(series: Series, column: str) -> tuple[Series, list[tuple[float, float]]]:
        points = [(float(row["step"]), float(row[column])) for row in rows if row.get(column)]
        return series, [point for point in points if math.isfinite(point[1])]

    of, own = name.upper(), tables.MODELS[name]
    sides = [line(CHOSEN, "chosen_logprob"), line(REJECTED, "rejected_logprob")]
    return [
        charts.lines(f"{of}: loss", "step", [line(own, "loss")]),
        charts.lines(f"{of}: reward margin", "step", [line(own, "margin")]),
        charts.lines(f"{of}: share of pairs ranked right", "step", [line(own, "accuracy")]),
        charts.lines(f"{of}: log-probability of the answers", "step", sides),
    ]


def _agreement(by: dict[str, dict[str, Any]]) -> Markup:
    rows = [
        (
            tables.spoken(name),
            sum((tables.dot(series, one, key) for key, series in tables.BASELINES.items()), []),
        )
        for name, one in by.items()
    ]
    return charts.dots("Agreement with people, beside two baselines", rows, 0, 1, 0.5)


def _by_margin(path: Path) -> Markup:
    """In what share of the pairs the judge is right, by tenth of its margin, beside how sure that margin
    calls it.

    A margin of m is taken for being sure by (1 + m) / 2, as the calibration error of the stage `agreement`
    does.
    """
    rows, right = Counter(), Counter()
    for row in jsonl.read(path, JudgedPair):
        if row.chosen_score is not None and row.rejected_score is not None:
            margin = row.chosen_score - row.rejected_score
            place = min(int(abs(margin) * 10), 9)
            rows[place] += 1
            right[place] += 0.5 if margin == 0 else margin > 0
    found = [(place / 10 + 0.05, right[place] / rows[place]) for place in sorted(rows)]
    sure = [(at, (1 + at) / 2) for at, _ in found]
    series = [(JUDGE, found), (Series("as sure as its margin", "base"), sure)]
    return charts.lines("Share right, by the judge's margin", "difference of the two scores", series)
