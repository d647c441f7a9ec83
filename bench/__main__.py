"""Runs the benchmark: `python -m bench` for all of it, `--runs 1 --only judge` for a quick look."""

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import runs, table
from medqa.runtime.environment import set_up
from medqa.runtime.errors import UserError

STAGES = ("generate", "judge", "sft", "dpo")  # compared with peers
WHOLE = ("data", "everything", "growth")  # measured by themselves


def main() -> None:
    """Read the options, measure, and write results.json, the plot and the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measures each stage against its peers."
    )
    names = STAGES + WHOLE
    parser.add_argument("--runs", type=int, default=5, help="rounds in which the contenders take turns")
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="which benchmarks to run")
    parser.add_argument("--loads", nargs="*", default=["embedded", "random"], help="embedded, random or tiny")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of results.json, growth.svg")
    parser.add_argument("--page", type=Path, help="file to put the table into, between its two markers")
    alone = ("STAGE", "LOAD", "CONTENDER", "ROWS")
    parser.add_argument("--alone", nargs=4, metavar=alone, help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_up()
    if options.alone:
        print(json.dumps(measure_one(*options.alone[:3], int(options.alone[3]))))
        return
    started = time.monotonic()
    results: dict[str, Any] = {"machine": runs.machine(), "runs": options.runs}
    for name in options.only:
        if name in STAGES:
            results[name] = {load: compare(name, load, options.runs) for load in options.loads}
        else:
            results[name] = import_module(f"bench.{name}").measure(options.loads, options.runs, options.out)
        table.write(options.out / "results.json", results)  # safe, whatever comes next
        progress(f"{name} is done after {time.monotonic() - started:.0f} s")
    if options.page:
        table.insert(options.page, table.BEGIN, table.markdown(results))
    print(table.markdown(results))


def compare(stage: str, name: str, rounds: int) -> dict[str, Any]:
    """Compare the contenders of a stage on a workload: equal results, speed, and memory."""
    from bench import workloads

    module, workload = import_module(f"bench.{stage}"), workloads.load(name)
    progress(f"{stage}, {name}: do they compute the same?")
    same, rows = module.check(workload), module.ROWS[name]
    progress(f"{stage}, {name}: {same}; {rounds} rounds")
    prepared = {key: prepare(rows) for key, prepare in module.contenders(workload).items()}
    rates = runs.alternate(prepared, rounds)
    progress(f"{stage}, {name}: memory")
    return {
        "rows": rows,
        "unit": module.UNIT,
        "same": same,
        "rates": {key: runs.spread(values) for key, values in rates.items()},
        "times": runs.speedups(rates),
        "targets": module.TARGETS,
        "peak_mb": {key: runs.alone(stage, name, key, rows)["peak_mb"] for key in rates},
    }


def measure_one(stage: str, name: str, contender: str, rows: int) -> dict[str, float]:
    """The seconds and the peak memory of one run, in this process."""
    from bench import workloads

    # The stages of bench/data.py must load neither a model nor the libraries for one.
    workload = name if stage == "data" else workloads.load(name)
    run = import_module(f"bench.{stage}").contenders(workload)[contender](rows)
    started = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - started, "peak_mb": runs.peak()}


def progress(text: str) -> None:
    """Show the progress beside the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench: {error}")
