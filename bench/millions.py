"""How far the driver goes: `python -m bench.millions` runs the stages on up to 1,000,000 fake rows."""

import argparse
import contextlib
import io
import json
import math
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bench import million_rows, runs, table
from bench.growth import COLOURS
from medqa import jsonl
from medqa.report.svg import Scale, tag
from medqa.runtime.errors import UserError

SIZES = (10_000, 100_000, 1_000_000)
# Of the memory and of the processor's time: a run that exceeds them is stopped, and the table says so.
MEMORY_GB, SECONDS = 6, 1800
EIGHT = (*COLOURS, "#d81b8c")  # one per step
PANEL, LEFT, TOP, HEIGHT, GAP = 300, 70, 30, 220, 100
BEGIN = "<!-- python -m bench.millions writes from here -->"
HEAD = """\
| step | rows | seconds | ms per row | peak MB | bytes per row more |
|---|---|---|---|---|---|"""


def main() -> None:
    """Read the options, run each step at each size in a process of its own, and write table and plot."""
    parser = argparse.ArgumentParser(prog="python -m bench.millions", description=__doc__)
    steps = [*million_rows.STEPS]
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="rows, in increasing order")
    parser.add_argument("--only", nargs="*", choices=steps, default=steps, help="which steps to run")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of growth.json, which is added to"
    )
    parser.add_argument("--folder", type=Path, help="where the rows are; by default a temporary folder")
    parser.add_argument("--page", type=Path, help="file to put the table into, between its two markers")
    parser.add_argument("--alone", nargs=2, metavar=("STEP", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure_one(options.folder, options.alone[0], int(options.alone[1]))
        return
    file = options.out / "growth.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for rows in options.sizes:
            folder = (options.folder or Path(temporary)).resolve() / str(rows)
            million_rows.prepare(folder, rows, options.only)
            for step in options.only:
                done = measure(step, rows, folder)
                print(f"{step}, {rows:,} rows: {done}", file=sys.stderr, flush=True)
                result.setdefault(step, {})[str(rows)] = done
                with jsonl.atomic_write(file) as out:
                    out.write(json.dumps(result, indent=2) + "\n")
    (options.out / "growth.svg").write_text(plot(result), encoding="utf-8")
    if options.page:
        table.insert(options.page, BEGIN, f"{markdown(result)}\n")
    print(markdown(result))


def measure(step: str, rows: int, folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of a step in a process of its own, or the limit at which it was stopped."""
    command = [sys.executable, "-m", "bench.millions", "--folder", folder, "--alone", step, str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGXCPU:
        return {"stopped": f"over {SECONDS} s"}
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        return {"stopped": f"over {MEMORY_GB} GB" if "MemoryError" in reason else reason}
    return json.loads(done.stdout.splitlines()[-1])


def measure_one(folder: Path, step: str, rows: int) -> None:
    """Run a step in this process, and print what it took."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30, MEMORY_GB << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 9))
    with chdir(folder), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        if step in ("compare", "report"):
            million_rows.write_other_answers()
        started = time.process_time()
        million_rows.run(step)
    seconds = time.process_time() - started
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(runs.peak(), 1)}))


def markdown(result: dict[str, Any]) -> str:
    """The table; the last column is the growth of the peak since the size before, per row."""
    lines = [HEAD]
    for step, by_rows in result.items():
        last_rows, last_peak = 0, 0.0
        for rows, done in sorted((int(text), done) for text, done in by_rows.items()):
            if "stopped" in done:
                lines.append(f"| {step} | {rows:,} | {done['stopped']} | | | |")
                continue
            seconds, peak = done["seconds"], done["peak_mb"]
            growth = f"{(peak - last_peak) * runs.MB / (rows - last_rows):,.0f}" if last_rows else ""
            cells = f"{seconds:,.1f} | {1000 * seconds / rows:.2f} | {peak:,.0f} | {growth}"
            lines.append(f"| {step} | {rows:,} | {cells} |")
            last_rows, last_peak = rows, peak
    return "\n".join(lines)


def plot(result: dict[str, Any]) -> Markup:
    """Time and peak memory of each step over the rows as SVG, all axes logarithmic."""
    runs_of = {
        step: sorted((int(rows), done) for rows, done in by_rows.items() if "stopped" not in done)
        for step, by_rows in result.items()
    }
    most = max((rows for each in runs_of.values() for rows, _ in each), default=1)
    least = min((rows for each in runs_of.values() for rows, _ in each), default=1)
    height = TOP + HEIGHT + 60
    parts = [tag("rect", width="100%", height="100%", fill="white")]
    for number, (title, key, limits) in enumerate(
        (("seconds", "seconds", (0.1, 10_000)), ("peak memory, MB", "peak_mb", (30, 10_000)))
    ):
        left = LEFT + number * (PANEL + GAP)
        x = Scale(math.log(least), math.log(max(most, least + 1)), left, left + PANEL)
        y = Scale(math.log(limits[0]), math.log(limits[1]), TOP + HEIGHT, TOP)
        parts += axes(x, y, title, limits, sorted({rows for each in runs_of.values() for rows, _ in each}))
        for each, colour in zip(runs_of.values(), EIGHT, strict=False):
            line = " ".join(f"{x(math.log(rows))},{y(math.log(done[key]))}" for rows, done in each)
            parts.append(tag("polyline", points=line, fill="none", stroke=colour, stroke_width=2))
    left, middle = LEFT, height - 12
    for name, colour in zip(runs_of, EIGHT, strict=False):
        parts.append(tag("line", x1=left, x2=left + 18, y1=middle, y2=middle, stroke=colour, stroke_width=3))
        parts.append(tag("text", name, x=left + 24, y=height - 8))
        left += 44 + 7 * len(name)
    size = {"width": max(left, LEFT + 2 * PANEL + GAP + 40), "height": height}
    namespace = {"xmlns": "http://www.w3.org/2000/svg", "font_family": "sans-serif", "font_size": 12}
    return tag("svg", *parts, **namespace, **size)


def axes(x: Scale, y: Scale, title: str, limits: tuple[float, float], sizes: list[int]) -> list[Markup]:
    """The axes with a grid line per power of ten."""
    parts = [tag("text", title, x=x.start, y=TOP - 12, font_weight="bold")]
    powers = range(math.ceil(math.log10(limits[0])), math.floor(math.log10(limits[1])) + 1)
    for value in (10**power for power in powers):
        height = y(math.log(value))
        parts.append(tag("line", x1=x.start, x2=x.end, y1=height, y2=height, stroke="#ddd"))
        parts.append(tag("text", f"{value:,}", x=x.start - 8, y=height + 4, text_anchor="end"))
    for rows in sizes:
        parts.append(tag("text", f"{rows:,}", x=x(math.log(rows)), y=y.start + 18, text_anchor="middle"))
    return parts


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench: {error}")
