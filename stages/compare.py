"""Stage `compare`: paired differences between base, SFT and DPO."""

from pathlib import Path

from medqa import compare, params, records, stage


def main(base: Path, sft: Path, dpo: Path, metrics: Path, table: Path) -> str:
    """Compare the three evaluations."""
    given = params.read()
    answers = {
        name: records.read_some(path, records.Answer) for name, path in (("base", base), ("sft", sft), ("dpo", dpo))
    }
    result = compare.compare(answers, given["compare"], given["seed"])
    records.write_metrics(metrics, result)
    compare.write_table(table, answers)
    return "; ".join(
        f"{step.replace('_', ' ')}: score {gains.get('score_gain', 0):+.3f}" for step, gains in result.items()
    )


if __name__ == "__main__":
    stage.run(main)
