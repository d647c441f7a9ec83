"""Stage `data`: read, validate, deduplicate, split by prompt and decontaminate."""

from pathlib import Path

from medqa import data, params, records, stage


def main(
    corpus: Path, sft: Path, questions: Path, held_out: Path, labelled: Path, quarantine: Path, metrics: Path
) -> str:
    """Write the five files of rows that everything later reads."""
    given = params.read()
    loaded = data.load_medical_data(corpus, given["data"], given["seed"])
    for path, rows in (
        (sft, loaded.sft),
        (questions, loaded.questions),
        (held_out, loaded.held_out),
        (labelled, loaded.labelled),
        (quarantine, loaded.quarantine),
    ):
        records.write(path, rows)
    records.write_metrics(metrics, loaded.metrics)
    return (
        f"{len(loaded.sft)} SFT rows, {len(loaded.questions)} questions, {len(loaded.held_out)} held-out questions, "
        f"{len(loaded.labelled)} labelled pairs, {len(loaded.quarantine)} rows quarantined"
    )


if __name__ == "__main__":
    stage.run(main)
