"""Stage `summary`: the numbers that someone wants first, and the tables that `dvc plots` draws."""

import csv
import json
from pathlib import Path
from typing import Any

from medqa import compare, jsonl, records, summary
from medqa.runtime import stage, tracking
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(results: Path, answers: Path, metrics: Path, tables: Path) -> str:
    """Summarise the metrics in the folder `results`; draw `tables` from them and from the answers."""
    params = read_params()
    result = compute_metrics(params, results)
    jsonl.write_metrics(metrics, result)
    tracking.log_summary(params.compute.tracking, metrics)
    rows = {name: jsonl.read(answers / f"{name}.jsonl", records.Answer) for name in compare.MODELS}
    bins = _read(results, "agreement").get("reliability", [])
    _write(tables / "evaluation.tsv", summary.EVALUATION, summary.evaluation_table(_evaluations(results)))
    _write(tables / "reliability.tsv", summary.RELIABILITY, bins)
    _write(tables / "length.tsv", summary.LENGTH, summary.length_table(rows))
    return f"{len(result)} numbers in {metrics}"


def compute_metrics(params: Params, results: Path) -> dict[str, Any]:
    """The metrics, from those of the stages before."""
    names = ("compare", "agreement", "pairs")
    return summary.summarise(_evaluations(results), *(_read(results, name) for name in names))


def _evaluations(results: Path) -> dict[str, Any]:
    return {name: _read(results, f"evaluate/{name}") for name in compare.MODELS}


def _read(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def _write(path: Path, columns: summary.Columns, table: summary.Table) -> None:
    with jsonl.atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    stage.run(main)
