"""Stage `dpo`: direct preference optimisation, starting from the SFT adapter."""

from pathlib import Path
from typing import Any

from medqa import dpo, jsonl, records
from medqa.runtime import row_cache, stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params
from medqa.training.fine_tuning import TrainingJob


def main(base: Path, adapter: Path, pairs: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Train the DPO adapter."""
    params = read_params()
    minutes, tracking = params.compute.checkpoint_minutes, params.compute.tracking
    job = TrainingJob(
        "dpo", base, params.dpo, params.dtype, params.seed, out, curve, minutes, tracking, params.compute
    )
    cache = row_cache.open_cache(params.compute)
    audit = dpo.train(job, adapter, jsonl.read_all(pairs, records.Pair), cache)
    result = dpo.summarize(audit, curve)
    jsonl.write_metrics(metrics, result)
    return dpo.describe(result)


def compute_metrics(params: Params, base: Path, pairs: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the pairs in the base's tokens and the step curve."""
    rows = jsonl.read_all(pairs, records.Pair)
    return dpo.summarize(dpo.audit_lengths(base, rows, params.dpo), curve)


if __name__ == "__main__":
    stage.run(main)
