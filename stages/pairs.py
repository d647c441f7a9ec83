"""Stage `pairs`: the better candidate becomes chosen, the worse rejected."""

from pathlib import Path

from medqa import pairs, params, records, stage


def main(judged: Path, out: Path, metrics: Path) -> str:
    """Build the preference pairs."""
    built, result = pairs.build(records.read(judged, records.Judged), params.read()["pairs"])
    records.write(out, built)
    records.write_metrics(metrics, result)
    return f"{result['pairs']} pairs from {result['questions']} questions, mean margin {result['margin_mean']:.3f}"


if __name__ == "__main__":
    stage.run(main)
