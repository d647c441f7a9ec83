"""`medqa check`: whether params.yaml is right, which stages would run, what they cost, whether that fits."""

import argparse
import dataclasses
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from medqa.commands.project import LOCK, locked_stages, plan
from medqa.estimates import calculated, fit, machine, measured, memory, shapes, table, workload
from medqa.estimates.setting import Setting
from medqa.runtime import measurements
from medqa.runtime.errors import UserError
from medqa.runtime.params import PARAMS, read_params
from medqa.runtime.sections import Params

METRICS = Path("metrics")
GB = 1e9


def add(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the costs as JSON instead of the table")


def run(options: argparse.Namespace) -> int:
    """Print the costs. Raises UserError if params.yaml is wrong, or if a stage cannot fit this machine."""
    params = read_params()
    if not options.json:
        print(f"{PARAMS} is right", flush=True)
    pending, this_machine = plan(), machine.inspect()
    runs = list(measurements.read())
    former = former_run(runs)
    counts, tokens = workload.predict(params, former), workload.row_tokens(params, former)
    setting = Setting(params, counts, tokens, model_shapes(params), this_machine, products_per_second)
    costs = [stage_cost(stage, setting, runs, outputs) for stage, outputs in pending.outputs.items()]
    if options.json:
        print(json.dumps([dataclasses.asdict(cost) for cost in costs], indent=1))
    else:
        print(table.render(costs, len(pending.unchanged)))
    if refusal := fit.refusal(costs, this_machine, params):
        raise UserError(refusal)
    for warning in fit.warnings(costs, this_machine, params):
        print(warning, file=sys.stderr if options.json else sys.stdout)
    return 0


def stage_cost(
    stage: str, setting: Setting, runs: list[measurements.Measurement], outputs: list[Path]
) -> table.Cost:
    """The cost of a stage: from measurements where there are any, else from shapes."""
    if workload.is_off(stage, setting.params):
        return calculated.calculate(stage, setting)
    weights = memory.weights_gb(stage.partition("@")[0], setting)
    cost = measured.scale(stage, setting.params, setting.counts, runs, setting.machine.device, weights)
    if cost is None:
        return calculated.calculate(stage, setting)
    return cost.with_disk(sum(map(size_gb, outputs)))


def size_gb(path: Path) -> float:
    """The size of a file or a folder; 0 if it is not there."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / GB


def model_shapes(params: Params) -> dict[str, shapes.Shape | None]:
    """The shape of each model of params.yaml."""
    return {name: shapes.of_model(source) for name, source in params.models.sources().items()}


def former_run(runs: list[measurements.Measurement]) -> workload.FormerRun:
    """What the last run left: the parameters in dvc.lock by stage, and the metrics of data and pairs."""
    stages = locked_stages() if LOCK.is_file() else {}
    params = {name: stage.get("params", {}).get(str(PARAMS), {}) for name, stage in stages.items()}
    return workload.FormerRun(params, {name: read_metrics(name) for name in ("data", "pairs")}, runs)


def read_metrics(name: str) -> dict[str, Any]:
    """A file of metrics/; empty if it is not there."""
    path = METRICS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@cache
def products_per_second(dtype: str) -> float:
    """The speed of a matrix product, with a line that says what takes a few seconds."""
    print(
        f"no earlier run to go by: measuring a matrix product in {dtype}, a few seconds",
        file=sys.stderr,
        flush=True,
    )
    return machine.products_per_second(dtype)
