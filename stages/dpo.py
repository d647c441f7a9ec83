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
    usable = dpo.train(
        base, adapter, rows, given["dpo"], given["dtype"], given["seed"], out, curve, compute.checkpoint_minutes, kept
    )
    result = dpo.summary(usable, curve)
    records.write_metrics(metrics, result)
    return (
        f"{result['steps']} steps on {result['pairs']} pairs, loss {result['first_loss']:.3f} to "
        f"{result['final_loss']:.3f}, margin {result['final_margin']:.3f}, accuracy {result['final_accuracy']:.2f}"
    )


def measured(given: dict[str, Any], base: Path, pairs: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the pairs in the base's tokens and the step curve."""
    return dpo.summary(dpo.fit(base, records.read_some(pairs, records.Pair), given["dpo"]), curve)


if __name__ == "__main__":
    stage.run(main, launched=True)
