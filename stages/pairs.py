"""Stage `pairs`: the better candidate becomes chosen, the worse rejected."""

from pathlib import Path
from typing import Any

from medqa import jsonl, pairs, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(judged: Path, out: Path, metrics: Path) -> str:
    """Build the preference pairs."""
    params = read_params()
    tally = pairs.Tally()
    jsonl.write(out, pairs.stream(jsonl.read(judged, records.Judged), params.pairs, tally))
    result = tally.metrics()
    jsonl.write_metrics(metrics, result)
    return f"{result['pairs']} pairs from {result['questions']} questions, mean margin {result['margin_mean']:.3f}"


def compute_metrics(params: Params, judged: Path) -> dict[str, Any]:
    """The metrics, from the judged candidates."""
    tally = pairs.Tally()
    for _ in pairs.stream(jsonl.read(judged, records.Judged), params.pairs, tally):
        pass
    return tally.metrics()


if __name__ == "__main__":
    stage.run(main)
