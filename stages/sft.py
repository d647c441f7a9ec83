"""Stage `sft`: supervised fine-tuning of a LoRA adapter on the quantised base."""

from pathlib import Path

from medqa import params, records, sft, stage


def main(base: Path, examples: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Train the SFT adapter."""
    given = params.read()
    rows = records.read_some(examples, records.Example)
    result = sft.train(
        base, rows, given["sft"], given["dtype"], given["seed"], out, curve, given["compute"].checkpoint_minutes
    )
    records.write_metrics(metrics, result)
    return f"{result['steps']} steps on {len(rows)} rows, loss {result['first_loss']:.3f} to {result['final_loss']:.3f}"


if __name__ == "__main__":
    stage.run(main)
