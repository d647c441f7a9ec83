"""Costs from earlier runs on this machine, scaled by the rows and the batch sizes."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from medqa.estimates import workload
from medqa.estimates.memory import LIBRARIES_GB
from medqa.estimates.setting import TRAINING
from medqa.estimates.table import Cost
from medqa.estimates.workload import Counts
from medqa.runtime.measurements import Measurement
from medqa.runtime.sections import Params

RECENT = 20  # runs per stage that are looked at
TRAINING_GB = 0.65  # LIBRARIES_GB of a stage that trains
MAX_REUSED = 0.1  # share of rows from the row cache up to which a time counts
INFERENCE = ("generate", "judge", "evaluate", "agreement", "benchmark")
SAME_WORK = {
    "dpo": ("dpo", "control"),
    "control": ("control", "dpo"),
}  # stages that do the same on other pairs


@dataclass(frozen=True)
class ComparableRun:
    """A whole run of a stage with the same models on the same device, its parameters and its units."""

    measurement: Measurement
    params: Params
    units: float


def scale(
    stage: str,
    params: Params,
    counts: Counts,
    measurements: Iterable[Measurement],
    device: str,
    weights_gb: float = 0.0,
) -> Cost | None:
    """The cost of a stage, scaled from its most similar run on this device; None if there is none.

    The time that progress bars counted grows with `workload.units`; the time before, in which libraries and
    models are loaded, stays. A stage without bars grows as a whole. Of the memory, what exceeds libraries and
    weights grows with the rows in memory at once. The disk is not known here.
    """
    units = workload.units(stage, params, counts)
    runs = list(_comparable_runs(stage, params, measurements, device))
    if units is None or not runs:
        return None
    nearest = min(runs, key=lambda run: _distance(stage, params, units, run))
    measured, ratio = nearest.measurement, units / nearest.units
    growing = measured.row_seconds or measured.seconds
    batch = batch_ratio(stage, params, nearest.params)
    libraries = TRAINING_GB if stage.partition("@")[0] in TRAINING else LIBRARIES_GB
    return Cost(
        stage,
        seconds=measured.seconds - growing + growing * ratio,
        memory_gb=measured.peak_gb
        if measured.gpu_gb
        else _scaled(measured.peak_gb, libraries + weights_gb, batch),
        gpu_gb=_scaled(measured.gpu_gb, weights_gb, batch),
        disk_gb=None,
        download_gb=0.0,
        basis="measured",
    )


def _comparable_runs(
    stage: str, params: Params, measurements: Iterable[Measurement], device: str
) -> Iterator[ComparableRun]:
    """The latest first: of two that are equally similar it counts."""
    name, basis = stage.partition("@")[0], _basis(stage, params)
    names = SAME_WORK.get(name, (name,))
    runs = [run for run in measurements if run.stage.partition("@")[0] in names and _is_whole(run)]
    if name == "models":
        runs = [run for run in runs if run.stage == stage]
    if name in (*TRAINING, *INFERENCE):
        runs = [run for run in runs if run.device == device]
    for run in reversed(runs[-RECENT:]):
        former = _params(run.params)
        if former is None or workload.is_off(run.stage, former) or _basis(stage, former) != basis:
            continue
        if units := workload.units(run.stage, former, workload.counts_of(run)):
            yield ComparableRun(run, former, units)


def _is_whole(run: Measurement) -> bool:
    """Whether a run did all of its work itself. Training takes little from the row cache."""
    reused = 0.0 if run.stage.partition("@")[0] in TRAINING else run.reused
    return run.skipped == 0 and reused <= MAX_REUSED


def _params(raw: dict[str, Any]) -> Params | None:
    """The parameters of a run; None if this version does not know them."""
    try:
        return Params.model_validate(raw | {"compute": raw["compute"] | {"servers": {}}})
    except (ValidationError, KeyError, TypeError):
        return None


def _basis(stage: str, params: Params) -> list[Any]:
    """What must be equal for a run to be comparable: models, dtype, method, the source of rows."""
    name, _, item = stage.partition("@")
    sources, method = params.models.sources(), [params.judge.method, params.judge.template]
    judge, encoder = sources[params.evaluate.judge], sources[params.encoder]
    compute = params.compute
    engine = [params.dtype, compute.engine, compute.cluster, compute.processes]
    if name == "data":
        return [params.corpus, params.data.sft, params.data.preference]
    if name == "models":
        return [sources.get(item)]
    if name == "judge":
        return [sources["judge"], *method, *engine]
    if name in ("evaluate", "agreement"):
        return [sources["base"], judge, encoder, *method, *engine]
    return [sources["base"], *engine] if name in (*TRAINING, "generate", "benchmark") else []


def _distance(stage: str, params: Params, units: float, run: ComparableRun) -> float:
    """How unlike a run is: by its batch first, then by its units, both in powers of e, then by its item."""
    batch = abs(math.log(batch_ratio(stage, params, run.params)))
    return 10 * batch + abs(math.log(max(units, 1e-9) / run.units)) + 0.1 * (run.measurement.stage != stage)


def batch_ratio(stage: str, params: Params, former: Params) -> float:
    """How many times as many tokens as in a former run may be in memory at once.

    A longer limit of tokens counts in full, since it is not known how many rows will reach it. A shorter one
    does not count: it is not known how many rows reached the longer one.
    """
    name = stage.partition("@")[0]
    if name in TRAINING:
        section, before = (params.sft, former.sft) if name == "sft" else (params.dpo, former.dpo)
        length = max(1.0, section.max_length / before.max_length)
        return length * section.micro_batch_size / before.micro_batch_size
    if name == "generate":
        length = max(1.0, params.generate.max_new_tokens / former.generate.max_new_tokens)
        return length * params.compute.generate_batch_size / former.compute.generate_batch_size
    if name in INFERENCE and name != "benchmark":  # which scores question by question
        return params.compute.judge_batch_size / former.compute.judge_batch_size
    return 1.0


def _scaled(peak_gb: float, fixed_gb: float, ratio: float) -> float:
    """A peak whose part above the fixed one is multiplied by the ratio."""
    return peak_gb + max(0.0, peak_gb - fixed_gb) * (ratio - 1)
