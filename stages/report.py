"""Stage `report`: one page with all that the run found."""

from pathlib import Path

from medqa import params, records, report, stage


def main(pipeline: Path, data: Path, metrics: Path, models: Path, out: Path) -> str:
    """Write the report of a run from its dvc.yaml, its data, its metrics and its models."""
    # What cannot change a result starts no stage, and is therefore not on the page either.
    given = {name: value for name, value in params.read().items() if name != "compute"}
    page = report.build(report.Folders(pipeline, data, metrics, models), given)
    with records.whole(out) as file:
        file.write(page)
    return f"{out}, {len(page) / 1e6:.1f} million characters; open it in a browser"


if __name__ == "__main__":
    stage.run(main)
