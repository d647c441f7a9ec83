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

STAGES = ("generate", "judge", "sft", "dpo")  # compared with others
WHOLE = ("data", "everything", "growth")  # measured by themselves


def main() -> None:
    """Read the options, measure, and write results.json, the plot and the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measures each stage against its peers."
    )
    parser.add_argument("--runs", type=int, default=5, help="rounds in which the contenders take turns")
    parser.add_argument(
        "--only", nargs="*", choices=STAGES + WHOLE, default=STAGES + WHOLE, help="some of the files"
    )
    parser.add_argument("--loads", nargs="*", default=["embedded", "random"], help="embedded, random or tiny")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="folder of results.json and growth.svg"
    )
    parser.add_argument("--readme", type=Path, help="file to put the table into, between its two markers")
    parser.add_argument(
        "--alone", nargs=4, metavar=("STAGE", "LOAD", "CONTENDER", "ROWS"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    set_up()
    if given.alone:
        print(json.dumps(one(*given.alone[:3], int(given.alone[3]))))
        return
    started = time.monotonic()
    results: dict[str, Any] = {"machine": runs.machine(), "runs": given.runs}
    for name in given.only:
        module = import_module(f"bench.{name}")
        if name in STAGES:
            results[name] = {load: compared(name, load, given.runs) for load in given.loads}
        else:
            results[name] = module.measure(given.loads, given.runs, given.out)
        table.write(given.out / "results.json", results)  # what is measured is kept, whatever comes after it
        said(f"{name} is done after {time.monotonic() - started:.0f} s")
    if given.readme:
        table.into(given.readme, results)
    print(table.markdown(results))


def compared(stage: str, name: str, rounds: int) -> dict[str, Any]:
    """The contenders of a stage on a workload: that they do the same, how fast they are, what memory they
    take.
    """
    from bench import workloads

    module, load = import_module(f"bench.{stage}"), workloads.named(name)
    said(f"{stage}, {name}: do they compute the same?")
    same, rows = module.check(load), module.ROWS[name]
    said(f"{stage}, {name}: {same}; {rounds} rounds")
    rates = runs.alternate({key: prepare(rows) for key, prepare in module.contenders(load).items()}, rounds)
    said(f"{stage}, {name}: memory")
    return {
        "rows": rows,
        "unit": module.UNIT,
        "same": same,
        "rates": {key: runs.spread(values) for key, values in rates.items()},
        "times": runs.ratios(rates),
        "targets": module.TARGETS,
        "peak_mb": {key: runs.alone(stage, name, key, rows)["peak_mb"] for key in rates},
    }


def one(stage: str, name: str, contender: str, rows: int) -> dict[str, float]:
    """The seconds and the peak memory of one run, in this process."""
    from bench import workloads

    # The stages of bench/data.py must not load a model, nor what runs one.
    load = name if stage == "data" else workloads.named(name)
    run = import_module(f"bench.{stage}").contenders(load)[contender](rows)
    started = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - started, "peak_mb": runs.peak()}


def said(text: str) -> None:
    """Tell how far it is, beside the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench: {error}")
