"""Stage `pairs`: the better candidate becomes chosen, the worse rejected."""

from pathlib import Path
from typing import Any

from medqa import pairs, params, records, stage


def main(judged: Path, out: Path, metrics: Path) -> str:
    """Build the preference pairs."""
    given = params.read()
    tally = pairs.Tally()
    records.write(out, pairs.stream(records.read(judged, records.Judged), given["pairs"], tally))
    result = tally.metrics()
    records.write_metrics(metrics, result)
    return f"{result['pairs']} pairs from {result['questions']} questions, mean margin {result['margin_mean']:.3f}"


def measured(given: dict[str, Any], judged: Path) -> dict[str, Any]:
    """The metrics, from the judged candidates."""
    tally = pairs.Tally()
    for _ in pairs.stream(records.read(judged, records.Judged), given["pairs"], tally):
        pass
    return tally.metrics()


if __name__ == "__main__":
    stage.run(main)
