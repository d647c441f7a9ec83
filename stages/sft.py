"""Stage `sft`: supervised fine-tuning of a LoRA adapter on the quantised base."""

from pathlib import Path
from typing import Any

from medqa import params, records, sft, stage


def main(base: Path, examples: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Train the SFT adapter."""
    given = params.read()
    rows = records.read_some(examples, records.Example)
    minutes = given["compute"].checkpoint_minutes
    usable = sft.train(base, rows, given["sft"], given["dtype"], given["seed"], out, curve, minutes)
    result = sft.summary(usable, curve)
    records.write_metrics(metrics, result)
    return (
        f"{result['steps']} steps on {result['examples']} rows, loss {result['first_loss']:.3f} to "
        f"{result['final_loss']:.3f}"
    )


def measured(given: dict[str, Any], base: Path, examples: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the rows in the base's tokens and the step curve."""
    return sft.summary(sft.fit(base, records.read_some(examples, records.Example), given["sft"]), curve)


if __name__ == "__main__":
    stage.run(main, launched=True)
