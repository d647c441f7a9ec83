"""Stage `generate`: candidates for the preference questions from the SFT model."""

from pathlib import Path
from typing import Any

from medqa import engines, generate, jsonl, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(base: Path, adapter: Path, questions: Path, out: Path, metrics: Path) -> str:
    """Sample n answers to each question."""
    params = read_params()
    rows = jsonl.Rows(questions, records.Question)
    batch_size = params.compute.generate_batch_size
    with engines.load(base, adapter, params.dtype, params.compute, batch_size) as policy:
        candidates = generate.generate_answers(policy, rows, params.generate, params.seed)
    jsonl.write(out, candidates)
    result = compute_metrics(params, out)
    jsonl.write_metrics(metrics, result)
    cut_off = f"{result['candidates_cut_off']:.1%} cut off"
    return f"{len(candidates)} candidates for {len(rows)} questions, {cut_off}"


def compute_metrics(params: Params, out: Path) -> dict[str, Any]:
    """The metrics, from the candidates."""
    return generate.summary(jsonl.read(out, records.Candidate))


if __name__ == "__main__":
    stage.run(main)
