"""Stage `data`: read, validate, deduplicate, split by prompt and decontaminate."""

from pathlib import Path
from typing import Any

from medqa import data, jsonl
from medqa.benchmark import questions as benchmark_questions
from medqa.records import Example, HeldOut, Labelled, Provenance, Question, RowAudit
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
    """Write the rows that everything later reads, and what became of every row that was read.

    The rows come from the folder `corpus`, by default that of params.yaml.
    """
    params = read_params()
    corpus = corpus or Path(params.corpus)
    loaded = data.load_medical_data(corpus, params.data, params.seed, benchmark_prompts(params, corpus))
    jsonl.write(sft, loaded.sft, ordered=True)
    jsonl.write(questions, loaded.questions, ordered=True)
    jsonl.write(held_out, loaded.held_out, ordered=True)
    jsonl.write(labelled, loaded.labelled, ordered=True)
    jsonl.write(audit, loaded.audit, ordered=True)
    jsonl.write(quarantine, loaded.quarantine)
    jsonl.write(provenance, loaded.provenance)
    outcomes = compute_metrics(params, audit, provenance, sft, questions, held_out, labelled)
    jsonl.write_metrics(metrics, outcomes)
    remarks = [
        f"; {output}: {remark.replace('_', ' ')} in {times} rows"
        for output in data.OUTPUTS
        for remark, times in outcomes[output].get("remarks", {}).items()
    ]
    labellers = ", ".join(outcomes["labelled"]["labelled_by"])
    return (
        f"{len(loaded.sft)} SFT rows, {len(loaded.questions)} questions, {len(loaded.held_out)} held-out "
        f"questions, {len(loaded.labelled)} labelled pairs (labelled by: {labellers}), "
        f"{len(loaded.quarantine)} rows quarantined{''.join(remarks)}"
    )


def benchmark_prompts(params: Params, corpus: Path) -> dict[str, list[str]]:
    """What a training prompt may repeat of each benchmark question, by its id.

    Of all questions, whatever `benchmark.limit`: training must not depend on which of them are drawn.
    """
    rows = benchmark_questions.read_all(params.benchmark.tasks, params.benchmark.sources, corpus)
    return {row.id: row.prompts() for row in rows}


def compute_metrics(
    params: Params, audit: Path, provenance: Path, sft: Path, questions: Path, held_out: Path, labelled: Path
) -> dict[str, Any]:
    """The metrics, counted from the rows that were written."""
    sources = jsonl.read(provenance, Provenance)
    commits = {f"{source.id}_commit": source.commit for source in sources if source.commit}
    outcomes = data.count_outcomes(jsonl.read(audit, RowAudit))
    outcomes["sft"]["mean_chars"] = data.mean_lengths(jsonl.read(sft, Example))
    outcomes["questions"]["mean_chars"] = data.mean_lengths(jsonl.read(questions, Question))
    outcomes["held_out"]["mean_chars"] = data.mean_lengths(jsonl.read(held_out, HeldOut))
    outcomes["labelled"]["mean_chars"] = data.mean_lengths(jsonl.read(labelled, Labelled))
    outcomes["labelled"]["labelled_by"] = data.count_labellers(jsonl.read(labelled, Labelled))
    return outcomes | commits


if __name__ == "__main__":
    stage.run(main)
