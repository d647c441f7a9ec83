"""Stage `generate`: candidates for the preference questions from the SFT model."""

from pathlib import Path
from typing import Any

from medqa import engines, generate, params, records, stage


def main(base: Path, adapter: Path, questions: Path, out: Path, metrics: Path) -> str:
    """Sample n answers to each question."""
    given = params.read()
    rows = records.read_some(questions, records.Question)
    with stage.bar("generate", len(rows) * given["generate"].n) as bar:
        engine = engines.load(
            base, adapter, given["dtype"], given["compute"].generate_batch_size, bar.update, given["compute"].store
        )
        candidates = generate.generate_answers(engine, rows, given["generate"], given["seed"])
    records.write(out, candidates)
    result = measured(given, out)
    records.write_metrics(metrics, result)
    return f"{len(candidates)} candidates for {len(rows)} questions, {result['candidates_cut_off']:.1%} cut off"


def measured(given: dict[str, Any], out: Path) -> dict[str, Any]:
    """The metrics, from the candidates."""
    return generate.summary(records.read(out, records.Candidate))


if __name__ == "__main__":
    stage.run(main)
