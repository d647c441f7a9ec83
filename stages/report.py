"""Stage `report`: one page with all results of a run."""

from pathlib import Path

from medqa import jsonl, report
from medqa.runtime import stage, tracking
from medqa.runtime.params import read_params


def main(pipeline: Path, data: Path, metrics: Path, models: Path, out: Path) -> str:
    """Write the report of a run from its dvc.yaml, data, metrics and models."""
    params = read_params()
    page = report.build(report.RunPaths(pipeline, data, metrics, models), params)
    with jsonl.atomic_write(out) as file:
        file.write(page)
    tracking.log_summary(params.compute.tracking, metrics / "summary.json")
    return f"{out}, {len(page) / 1e6:.1f} million characters; open it in a browser"


if __name__ == "__main__":
    stage.run(main)
