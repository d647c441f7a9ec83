"""Stage `models`: pin a model of the Hub, or train a tiny one from scratch."""

from pathlib import Path

from medqa import models, params, records, stage


def main(name: str, corpus: Path, out: Path, metrics: Path) -> str:
    """Make the model `name` (base or judge)."""
    given = params.read()
    result = models.make(getattr(given["models"], name), corpus, given["seed"], out)
    records.write_metrics(metrics, result)
    return f"{name} in {out} ({', '.join(f'{key} {value}' for key, value in result.items())})"


if __name__ == "__main__":
    stage.run(main)
