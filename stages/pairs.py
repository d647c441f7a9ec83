"""Stage `pairs`: the better candidate becomes chosen, the worse rejected."""

from pathlib import Path
from typing import Any

from medqa import jsonl, pairs
from medqa.records import Judged
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(judged: Path, out: Path, metrics: Path) -> str:
    """Build the preference pairs."""
    params, tally = read_params(), pairs.Tally()
    jsonl.write(out, pairs.stream(jsonl.read(judged, Judged), params.pairs, tally))
    result = tally.metrics()
    jsonl.write_metrics(metrics, result)
    pairs_of = f"{result['pairs']} pairs from {result['questions']} questions"
    if result["pairs"]:
        return f"{pairs_of}, mean margin {result['margin_mean']:.3f}"
    reasons = (f"{pairs.REASONS[name]} ({count})" for name, count in tally.left_out.most_common())
    return f"{pairs_of}; left out: {', '.join(reasons)}"


def compute_metrics(params: Params, judged: Path) -> dict[str, Any]:
    """The metrics, from the judged candidates."""
    tally = pairs.Tally()
    for _ in pairs.stream(jsonl.read(judged, Judged), params.pairs, tally):
        pass
    return tally.metrics()


if __name__ == "__main__":
    stage.run(main)
