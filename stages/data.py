"""Stage `data`: read, validate, deduplicate, split by prompt and decontaminate."""

from pathlib import Path
from typing import Any

from medqa import data, jsonl, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(
    sft: Path,
    questions: Path,
    held_out: Path,
    labelled: Path,
    quarantine: Path,
    audit: Path,
    provenance: Path,
    metrics: Path,
    corpus: Path | None = None,
) -> str:
    """Write the files of rows that everything later reads, and what became of every row that was read.

    They come from the folder `corpus`, or from that of params.yaml.
    """
    params = read_params()
    loaded = data.load_medical_data(corpus or Path(params.corpus), params.data, params.seed)
    for path, rows in ((sft, loaded.sft), (questions, loaded.questions), (held_out, loaded.held_out)):
        jsonl.write(path, rows, ordered=True)
    jsonl.write(labelled, loaded.labelled, ordered=True)
    jsonl.write(audit, loaded.audit, ordered=True)
    jsonl.write(quarantine, loaded.quarantine)
    jsonl.write(provenance, loaded.provenance)
    counted = compute_metrics(params, audit, provenance)
    jsonl.write_metrics(metrics, counted)
    remarks = [
        f"; {output}: {remark.replace('_', ' ')} in {times} rows"
        for output in data.OUTPUTS
        for remark, times in counted[output].get("remarks", {}).items()
    ]
    return (
        f"{len(loaded.sft)} SFT rows, {len(loaded.questions)} questions, {len(loaded.held_out)} held-out questions, "
        f"{len(loaded.labelled)} labelled pairs, {len(loaded.quarantine)} rows quarantined{''.join(remarks)}"
    )


def compute_metrics(params: Params, audit: Path, provenance: Path) -> dict[str, Any]:
    """The metrics, counted from the rows that were written."""
    commits = {
        f"{row.id}_commit": row.commit for row in jsonl.read(provenance, records.Provenance) if row.commit
    }
    return data.counts(jsonl.read(audit, records.RowAudit)) | commits


if __name__ == "__main__":
    stage.run(main)
