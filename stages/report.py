"""Stage `report`: one page with all results of a run."""

from pathlib import Path

from medqa import jsonl, report
from medqa.runtime import stage
from medqa.runtime.params import read_params


def main(pipeline: Path, data: Path, metrics: Path, models: Path, out: Path) -> str:
    """Write the report of a run from its dvc.yaml, data, metrics and models."""
    page = report.build(report.RunPaths(pipeline, data, metrics, models), read_params())
    with jsonl.atomic_write(out) as file:
        file.write(page)
    print(f"\n{report.render_table(report.read_metrics(metrics), out)}\n", flush=True)
    return f"{out}, {len(page) / 1e6:.1f} million characters"


if __name__ == "__main__":
    stage.run(main)
