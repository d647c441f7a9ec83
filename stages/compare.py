"""Stage `compare`: paired differences between base, SFT and DPO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medqa import compare, jsonl
from medqa.records import Answer
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(base: Path, sft: Path, dpo: Path, metrics: Path, table: Path) -> str:
    """Compare the three evaluations."""
    result = compute_metrics(read_params(), base, sft, dpo)
    jsonl.write_metrics(metrics, result)
    compare.write_table(table, read_answers(base, sft, dpo))
    gains = (
        f"{name.replace('_', ' ')}: score {result[name].get('score_gain', 0):+.3f}"
        for name in compare.COMPARISON_NAMES
    )
    failed = f" ({result['failed_guards']})" if result["failed_guards"] else ""
    return f"verdict: {result['verdict']}{failed}; {'; '.join(gains)}"


def compute_metrics(params: Params, base: Path, sft: Path, dpo: Path) -> dict[str, Any]:
    """The metrics, from the answers of the three models."""
    return compare.compare(read_answers(base, sft, dpo), params.compare, params.seed)


def read_answers(base: Path, sft: Path, dpo: Path) -> dict[str, Sequence[Answer]]:
    """The answers of each model."""
    paths = {"base": base, "sft": sft, "dpo": dpo}
    return {name: jsonl.read_all(path, Answer) for name, path in paths.items()}


if __name__ == "__main__":
    stage.run(main)
