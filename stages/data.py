"""Stage `data`: read, validate, deduplicate, split by prompt and decontaminate."""

from pathlib import Path
from typing import Any

from medqa import data, params, records, stage


def main(
    sft: Path,
    questions: Path,
    held_out: Path,
    labelled: Path,
    quarantine: Path,
    fates: Path,
    origins: Path,
    metrics: Path,
    corpus: Path | None = None,
) -> str:
    """Write the files of rows that everything later reads, and what became of every row that was read.

    They come from the folder `corpus`, or from that of params.yaml.
    """
    given = params.read()
    loaded = data.load_medical_data(corpus or Path(given["corpus"]), given["data"], given["seed"])
    for path, rows in ((sft, loaded.sft), (questions, loaded.questions), (held_out, loaded.held_out)):
        records.write(path, rows, ordered=True)
    records.write(labelled, loaded.labelled, ordered=True)
    records.write(fates, loaded.fates, ordered=True)
    records.write(quarantine, loaded.quarantine)
    records.write(origins, loaded.origins)
    counted = measured(given, fates, origins)
    records.write_metrics(metrics, counted)
    remarks = [
        f"; {output}: {remark.replace('_', ' ')} in {times} rows"
        for output in data.OUTPUTS
        for remark, times in counted[output].get("remarks", {}).items()
    ]
    return (
        f"{len(loaded.sft)} SFT rows, {len(loaded.questions)} questions, {len(loaded.held_out)} held-out questions, "
        f"{len(loaded.labelled)} labelled pairs, {len(loaded.quarantine)} rows quarantined{''.join(remarks)}"
    )


def measured(given: dict[str, Any], fates: Path, origins: Path) -> dict[str, Any]:
    """The metrics, counted from the rows that were written."""
    commits = {f"{row.id}_commit": row.commit for row in records.read(origins, records.Origin) if row.commit}
    return data.counts(records.read(fates, records.Fate)) | commits


if __name__ == "__main__":
    stage.run(main)
