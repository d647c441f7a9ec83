"""Stage `generate`: candidates for the preference questions from the SFT model."""

from pathlib import Path

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
    cut_off = sum(row.finish == "length" for row in candidates) / len(candidates)
    records.write_metrics(metrics, {"candidates": len(candidates), "candidates_cut_off": cut_off})
    return f"{len(candidates)} candidates for {len(rows)} questions, {cut_off:.1%} cut off"


if __name__ == "__main__":
    stage.run(main)
