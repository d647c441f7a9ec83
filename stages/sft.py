"""Stage `sft`: supervised fine-tuning of a LoRA adapter on the quantised base."""

from pathlib import Path
from typing import Any

from medqa import jsonl, records, sft
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params
from medqa.training.fine_tuning import TrainingJob


def main(base: Path, examples: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Train the SFT adapter."""
    params = read_params()
    minutes, tracking = params.compute.checkpoint_minutes, params.compute.tracking
    job = TrainingJob(
        "sft", base, params.sft, params.dtype, params.seed, out, curve, minutes, tracking, params.compute
    )
    audit = sft.train(job, jsonl.read_all(examples, records.Example))
    result = sft.summarize(audit, curve)
    jsonl.write_metrics(metrics, result)
    return (
        f"{result['steps']} steps on {result['examples']} rows, loss {result['first_loss']:.3f} to "
        f"{result['final_loss']:.3f}"
    )


def compute_metrics(params: Params, base: Path, examples: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the rows in the base's tokens and the step curve."""
    rows = jsonl.read_all(examples, records.Example)
    return sft.summarize(sft.audit_lengths(base, rows, params.sft), curve)


if __name__ == "__main__":
    stage.run(main)
