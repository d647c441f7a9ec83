"""Stage `dpo`: direct preference optimisation, going on from the SFT adapter."""

from pathlib import Path
from typing import Any

from medqa import dpo, params, records, stage, store


def main(base: Path, adapter: Path, pairs: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Train the DPO adapter."""
    given = params.read()
    rows = records.read_some(pairs, records.Pair)
    compute = given["compute"]
    kept = store.Store(store.path()) if compute.store else None
    dpo.train(
        base, adapter, rows, given["dpo"], given["dtype"], given["seed"], out, curve, compute.checkpoint_minutes, kept
    )
    result = measured(given, pairs, curve)
    records.write_metrics(metrics, result)
    return (
        f"{result['steps']} steps on {len(rows)} pairs, loss {result['first_loss']:.3f} to {result['final_loss']:.3f}, "
        f"margin {result['final_margin']:.3f}, accuracy {result['final_accuracy']:.2f}"
    )


def measured(given: dict[str, Any], pairs: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the pairs and the step curve."""
    return dpo.summary(sum(1 for _ in records.read(pairs, records.Pair)), curve)


if __name__ == "__main__":
    stage.run(main, launched=True)
