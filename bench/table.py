"""The results as a Markdown table, and the files they are written to: results.json and a page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.runs import OURS
from medqa import jsonl
from medqa.runtime.errors import UserError

COMPARED = ("generate", "judge", "sft", "dpo")
BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"


PEERS_HEAD = """\
| stage | models | against | times as fast | target | medqa, per second | peer | peak MB of both |
|---|---|---|---|---|---|---|---|"""
WHOLE_HEAD = "| measured | is | target |\n|---|---|---|"
GROWTH_HEAD = "| stage | rows | seconds | peak MB | power of the rows | linear |\n|---|---|---|---|---|---|"


def write(path: Path, results: dict[str, Any]) -> None:
    """Write what is measured so far as JSON."""
    with jsonl.atomic_write(path) as file:
        file.write(json.dumps(results, indent=2) + "\n")


def insert(page: Path, begin: str, block: str) -> None:
    """Put a block between the two markers of a page. Raises UserError if they are missing."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(f"{begin}\n")
    _, end, after = rest.partition(END)
    if not end:
        raise UserError(f"{page} lacks the lines {begin} and {END}; put them where the table belongs")
    with jsonl.atomic_write(page) as file:
        file.write(f"{before}{begin}\n{block}{END}{after}")


def markdown(results: dict[str, Any]) -> str:
    """All results, in the order in which they were measured."""
    parts = [method(results["machine"], results["runs"])]
    if compared := [name for name in COMPARED if name in results]:
        lines = [line for name in compared for line in peers(name, results[name])]
        parts.append("\n".join([PEERS_HEAD, *lines]))
        parts.append("\n".join(f"- {line}" for name in compared for line in checks(name, results[name])))
    if "data" in results or "everything" in results:
        lines = [*files(results.get("data", {})), *idle(results.get("everything", {}))]
        parts.append("\n".join([WHOLE_HEAD, *lines]))
    if "growth" in results:
        parts.append("\n".join([GROWTH_HEAD, *growth(results["growth"])]))
    return "\n\n".join(parts) + "\n"


def method(machine: dict[str, Any], rounds: int) -> str:
    """A paragraph on the machine and the method."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    bfloat16 = f"{'with' if machine['bfloat16'] else 'no'} bfloat16"
    return (
        f"{machine['processor']}, {machine['cores']} cores ({machine['instructions']}, {bfloat16}), "
        f"{machine['memory_gb']} GB, Python {machine['python']}, {versions}. Medians of {rounds} alternating "
        "runs, least and largest in brackets; peak memory of each in a process of its own."
    )


def peers(stage: str, loads: dict[str, Any]) -> Iterator[str]:
    """One line per peer of a stage and workload."""
    for load, result in loads.items():
        ours = result["rates"][OURS]["median"]
        for name, times in result["times"].items():
            target, theirs = result["targets"].get(name), result["rates"][name]["median"]
            missed = "" if target is None or times["median"] >= target else " **missed**"
            limit = "" if target is None else f"≥ {target:g}{missed}"
            memory = f"{result['peak_mb'][OURS]:,.0f}, {result['peak_mb'][name]:,.0f}"
            yield (
                f"| {stage} | {load} | {name} | {ranged(times)} | {limit} "
                f"| {number(ours)} {result['unit']} | {number(theirs)} | {memory} |"
            )


def checks(stage: str, loads: dict[str, Any]) -> Iterator[str]:
    """What was checked to be the same before a stage was timed."""
    for load, result in loads.items():
        yield f"{stage}, {load}, {result['rows']} rows: {result['same']}"


def files(stages: dict[str, Any]) -> Iterator[str]:
    """Seconds and memory of the stages that need no model."""
    for stage, result in stages.items():
        seconds, limit = result["seconds"], result["target_seconds"]
        missed = "" if limit is None or seconds["median"] <= limit else " **missed**"
        target = "" if limit is None else f"< {limit:g} s{missed}"
        yield f"| {stage}, {result['rows']:,} questions | {ranged(seconds)} s | {target} |"
        flat = "flat" if result["flat"] else "**not flat**"
        quarter = f"{result['peak_mb_of_a_quarter']:,.0f} MB for a quarter of them"
        yield f"| {stage}, peak memory, no torch | {result['peak_mb']:,.0f} MB ({quarter}): {flat} | |"


def idle(result: dict[str, Any]) -> Iterator[str]:
    """What a pipeline with nothing to do costs."""
    if not result:
        return
    ours, bare = (result["seconds"][name]["median"] for name in (OURS, "bare"))
    repro = f"`dvc repro` with nothing to do, times a bare pipeline of {result['stages']} stages"
    rows = (
        (repro, "times", f" ({ours:.2f} s to {bare:.2f} s)"),
        ("`medqa --help`, seconds", "help_seconds", ""),
    )
    for label, key, note in rows:
        limit = result["targets"][key]
        missed = " **missed**" if result[key]["median"] > limit else ""
        yield f"| {label} | {ranged(result[key])}{note} | ≤ {limit:g}{missed} |"
    importers = ", ".join(name for name, imports in result["imports_torch"].items() if imports)
    yield f"| which of {', '.join(result['imports_torch'])} import torch | {importers or 'none'} | none |"


def growth(stages: dict[str, Any]) -> Iterator[str]:
    """The cost at each number of rows."""
    for name, result in stages.items():
        columns = (
            ", ".join(f"{rows:,}" for rows in result["rows"]),
            ", ".join(number(seconds) for seconds in result["seconds"]),
            ", ".join(f"{memory:,.0f}" for memory in result["peak_mb"]),
            f"{result['exponent']:.2f}",
            "yes" if result["linear"] else "**no**",
        )
        yield f"| {name} | {' | '.join(columns)} |"


def ranged(spread: dict[str, float]) -> str:
    """Median, and minimum to maximum."""
    return f"{number(spread['median'])} ({number(spread['min'])} to {number(spread['max'])})"


def number(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
