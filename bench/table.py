"""The results as a Markdown table, and where they are kept: results.json and the README."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.runs import FAST
from medqa import jsonl
from medqa.runtime.errors import UserError

COMPARED = ("generate", "judge", "sft", "dpo")
BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"


def write(path: Path, results: dict[str, Any]) -> None:
    """Write what was measured so far as JSON."""
    with jsonl.atomic_write(path) as file:
        file.write(json.dumps(results, indent=2) + "\n")


def into(readme: Path, results: dict[str, Any]) -> None:
    """Put the table between the README's two markers. Raises UserError if they are not there."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(f"{readme} lacks the lines {BEGIN} and {END}; put them where the table belongs")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    with jsonl.atomic_write(readme) as file:
        file.write(f"{before}{BEGIN}\n{markdown(results)}{END}{after}")


def markdown(results: dict[str, Any]) -> str:
    """All that was measured, in the order in which it was."""
    parts = [described(results["machine"], results["runs"])]
    if compared := [name for name in COMPARED if name in results]:
        head = (
            "| stage | models | against | times as fast | target | medqa, a second | peer | peak MB of both |"
        )
        lines = [line for name in compared for line in peers(name, results[name])]
        parts.append("\n".join([head, "|---|---|---|---|---|---|---|---|", *lines]))
        parts.append("\n".join(f"- {line}" for name in compared for line in sameness(name, results[name])))
    if "data" in results or "everything" in results:
        head = "| measured | is | target |\n|---|---|---|"
        parts.append("\n".join([head, *rows(results.get("data", {})), *idle(results.get("everything", {}))]))
    if "growth" in results:
        head = "| stage | rows | seconds | peak MB | power of the rows | linear |\n|---|---|---|---|---|---|"
        parts.append("\n".join([head, *growth(results["growth"])]))
    return "\n\n".join(parts) + "\n"


def described(machine: dict[str, Any], rounds: int) -> str:
    """One line about the machine and the method."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores ({machine['instructions']}, "
        f"{'with' if machine['bfloat16'] else 'no'} bfloat16), {machine['memory_gb']} GB, Python {machine['python']}, "
        f"{versions}. Medians of {rounds} alternating runs, least and largest in brackets; peak memory of each in a "
        "process of its own."
    )


def peers(stage: str, loads: dict[str, Any]) -> Iterator[str]:
    """A line for each other contender of a stage on each workload."""
    for load, told in loads.items():
        for name, times in told["times"].items():
            target = told["targets"].get(name)
            marked = (
                "" if target is None else f"≥ {target:g}{'' if times['median'] >= target else ' **missed**'}"
            )
            mine, other = told["rates"][FAST], told["rates"][name]
            memory = f"{told['peak_mb'][FAST]:,.0f}, {told['peak_mb'][name]:,.0f}"
            yield (
                f"| {stage} | {load} | {name} | {ranged(times)} | {marked} | {number(mine['median'])} {told['unit']} "
                f"| {number(other['median'])} | {memory} |"
            )


def sameness(stage: str, loads: dict[str, Any]) -> Iterator[str]:
    """What was found to be the same before a stage was timed."""
    for load, told in loads.items():
        yield f"{stage}, {load}, {told['rows']} rows: {told['same']}"


def rows(stages: dict[str, Any]) -> Iterator[str]:
    """Seconds and memory of the stages that need no model."""
    for stage, told in stages.items():
        target, flat = told["target_seconds"], "flat" if told["flat"] else "**not flat**"
        missed = target is not None and told["seconds"]["median"] > target
        marked = "" if target is None else f"< {target:g} s{' **missed**' if missed else ''}"
        yield f"| {stage}, {told['rows']:,} questions | {ranged(told['seconds'])} s | {marked} |"
        memory = f"{told['peak_mb']:,.0f} MB ({told['peak_mb_of_a_quarter']:,.0f} MB for a quarter of them): {flat}"
        yield f"| {stage}, peak memory, no torch | {memory} | |"


def idle(told: dict[str, Any]) -> Iterator[str]:
    """What nothing to do costs."""
    if not told:
        return
    least = {name: spread["median"] for name, spread in told["seconds"].items()}
    for label, value, limit, note in (
        (
            f"`dvc repro` with nothing to do, times a bare pipeline of {told['stages']} stages",
            told["times"],
            told["targets"]["times"],
            f" ({least[FAST]:.2f} s to {least['bare']:.2f} s)",
        ),
        ("`medqa --help`, seconds", told["help_seconds"], told["targets"]["help_seconds"], ""),
    ):
        missed = " **missed**" if value["median"] > limit else ""
        yield f"| {label} | {ranged(value)}{note} | ≤ {limit:g}{missed} |"
    loaded = ", ".join(name for name, loads in told["imports_torch"].items() if loads)
    yield f"| which of {', '.join(told['imports_torch'])} import torch | {loaded or 'none'} | none |"


def growth(stages: dict[str, Any]) -> Iterator[str]:
    """Cost at each number of rows."""
    for name, told in stages.items():
        columns = (
            ", ".join(f"{rows:,}" for rows in told["rows"]),
            ", ".join(number(seconds) for seconds in told["seconds"]),
            ", ".join(f"{memory:,.0f}" for memory in told["peak_mb"]),
            f"{told['exponent']:.2f}",
            "yes" if told["linear"] else "**no**",
        )
        yield f"| {name} | {' | '.join(columns)} |"


def ranged(spread: dict[str, float]) -> str:
    """Median, and least to largest."""
    return f"{number(spread['median'])} ({number(spread['min'])} to {number(spread['max'])})"


def number(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
