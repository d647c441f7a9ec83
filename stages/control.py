"""Stage `control`: DPO once more on control pairs, a placebo or an oracle."""

from pathlib import Path
from typing import Any

from medqa import controls, curves, dpo, jsonl, records
from medqa.runtime import folders, row_cache, stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params
from medqa.training.fine_tuning import TrainingJob


def main(
    arm: str,
    base: Path,
    adapter: Path,
    judged: Path,
    pairs: Path,
    out: Path,
    control_pairs: Path,
    curve: Path,
    metrics: Path,
) -> str:
    """Train the adapter of the arm `placebo` or `oracle`, or write empty outputs if it is switched off."""
    params = read_params()
    is_on = getattr(params.control, arm)
    rows = build_pairs(params, arm, judged, pairs) if is_on else []
    if is_on:
        minutes, tracking = params.compute.checkpoint_minutes, params.compute.tracking
        job = TrainingJob(
            "dpo", base, params.dpo, params.dtype, params.seed, out, curve, minutes, tracking, params.compute
        )
        dpo.train(job, adapter, rows, row_cache.open_cache(params.compute))
    else:
        write_nothing(arm, out, curve)
    jsonl.write(control_pairs, rows)
    result = compute_metrics(params, base, control_pairs, curve)
    jsonl.write_metrics(metrics, result)
    return f"{arm}: {dpo.describe(result)}" if is_on else f"control.{arm} is false, so there is no {arm}"


def build_pairs(params: Params, arm: str, judged: Path, pairs: Path) -> list[records.Pair]:
    """The pairs of an arm, from the judge's pairs or from the candidates."""
    judge_pairs = jsonl.read_all(pairs, records.Pair)
    if arm == "placebo":
        return controls.placebo_pairs(judge_pairs, params.seed)
    return controls.oracle_pairs(jsonl.read(judged, records.Judged), params.pairs, len(judge_pairs))


def write_nothing(arm: str, out: Path, curve: Path) -> None:
    """An adapter folder without an adapter and a curve without steps."""
    folders.write_empty(out, f"control.{arm} is false in params.yaml, so no adapter was trained")
    curves.write_curve(curve, [], dpo.CURVE_COLUMNS)


def compute_metrics(params: Params, base: Path, control_pairs: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the pairs in the base's tokens and the step curve."""
    rows = list(jsonl.read(control_pairs, records.Pair))
    return dpo.summarize(dpo.audit_lengths(base, rows, params.dpo), curve) if rows else {"pairs": 0}


if __name__ == "__main__":
    stage.run(main)
