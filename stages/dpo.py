"""Stage `dpo`: direct preference optimisation, going on from the SFT adapter."""

from pathlib import Path
from typing import Any

from medqa import dpo, jsonl, records
from medqa.runtime import row_cache, stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(base: Path, adapter: Path, pairs: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Train the DPO adapter."""
    params = read_params()
    rows = jsonl.read_all(pairs, records.Pair)
    compute = params.compute
    kept = row_cache.open_cache(compute)
    usable = dpo.train(
        base,
        adapter,
        rows,
        params.dpo,
        params.dtype,
        params.seed,
        out,
        curve,
        compute.checkpoint_minutes,
        kept,
    )
    result = dpo.summary(usable, curve)
    jsonl.write_metrics(metrics, result)
    return (
        f"{result['steps']} steps on {result['pairs']} pairs, loss {result['first_loss']:.3f} to "
        f"{result['final_loss']:.3f}, margin {result['final_margin']:.3f}, accuracy {result['final_accuracy']:.2f}"
    )


def compute_metrics(params: Params, base: Path, pairs: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the pairs in the base's tokens and the step curve."""
    return dpo.summary(dpo.fit(base, jsonl.read_all(pairs, records.Pair), params.dpo), curve)


if __name__ == "__main__":
    stage.run(main, several_processes=True)
