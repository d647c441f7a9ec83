"""How cost grows: each stage at 1, 4 and 16 times the rows, time and memory, and a plot of both."""

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bench import runs
from medqa.report.charts import Scale, tag

TIMES = (1, 4, 16)
ROWS = {  # of the least of the three, for each workload; of random models 16 times as many would take minutes
    "data": {"embedded": 1000, "tiny": 16},
    "sft": {"embedded": 48, "tiny": 2},
    "generate": {"embedded": 16, "tiny": 1},
    "judge": {"embedded": 32, "tiny": 1},
    "pairs": {"embedded": 4000, "tiny": 16},
    "dpo": {"embedded": 24, "tiny": 2},
    "evaluate": {"embedded": 16, "tiny": 1},
}
FILES = ("data", "pairs")  # stages of bench/data.py
LINEAR = 1.1  # exponent of the rows up to which the growth counts as linear
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b4fa3", "#b8860b", "#3a3a3a", "#008b8b")
PANEL, LEFT, TOP, HEIGHT, GAP = 300, 60, 30, 220, 90


def measure(loads: list[str], rounds: int, out: Path) -> dict[str, Any]:
    """Seconds and MB of each stage at each size, the exponent of the growth, and out/growth.svg."""
    load, result = "tiny" if "tiny" in loads else "embedded", {}
    for name, rows in ROWS.items():
        module, contender = ("data", name) if name in FILES else (name, runs.FAST)
        told = [runs.alone(module, load, contender, times * rows[load]) for times in TIMES]
        seconds = [each["seconds"] for each in told]
        result[name] = {
            "rows": [times * rows[load] for times in TIMES],
            "seconds": seconds,
            "peak_mb": [each["peak_mb"] for each in told],
            "exponent": exponent(seconds),
            "linear": exponent(seconds) <= LINEAR,
        }
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.svg").write_text(drawn(result), encoding="utf-8")
    return result


def exponent(seconds: list[float]) -> float:
    """The power of the rows with which the time grows over the last step: 1 is linear, below it a start is
    paid off.
    """
    return math.log(seconds[-1] / seconds[-2]) / math.log(TIMES[-1] / TIMES[-2])


def drawn(result: dict[str, Any]) -> Markup:
    """Both panels as SVG, all axes logarithmic, each stage relative to its least number of rows."""
    height = TOP + HEIGHT + 60
    parts = [tag("rect", width="100%", height="100%", fill="white")]
    for place, (title, key) in enumerate((("time", "seconds"), ("peak memory", "peak_mb"))):
        x = Scale(0, math.log(TIMES[-1]), LEFT + place * (PANEL + GAP), LEFT + place * (PANEL + GAP) + PANEL)
        y = Scale(math.log(0.5), math.log(2 * TIMES[-1]), TOP + HEIGHT, TOP)
        parts += panel(x, y, title)
        for told, colour in zip(result.values(), COLOURS, strict=False):
            points = zip(TIMES, told[key], strict=True)
            line = " ".join(
                f"{x(math.log(times))},{y(math.log(value / told[key][0]))}" for times, value in points
            )
            parts.append(tag("polyline", points=line, fill="none", stroke=colour, stroke_width=2))
    for place, (name, colour) in enumerate(zip(result, COLOURS, strict=False)):
        at = LEFT + 95 * place
        parts.append(
            tag("line", x1=at, x2=at + 18, y1=height - 12, y2=height - 12, stroke=colour, stroke_width=3)
        )
        parts.append(tag("text", name, x=at + 24, y=height - 8))
    size = {"width": LEFT + 2 * PANEL + GAP + 40, "height": height}
    namespace = {"xmlns": "http://www.w3.org/2000/svg", "font_family": "sans-serif", "font_size": 12}
    return tag("svg", *parts, **namespace, **size)


def panel(x: Scale, y: Scale, title: str) -> list[Markup]:
    """Axes, grid and the diagonal on which cost grows as the rows do."""
    parts = [tag("text", f"{title}, times that of the least rows", x=x.start, y=TOP - 12, font_weight="bold")]
    for times in (0.5, 1, 2, 4, 8, 16, 32):
        at = y(math.log(times))
        parts.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, stroke="#ddd"))
        parts.append(tag("text", f"{times:g}×", x=x.start - 8, y=at + 4, text_anchor="end"))
    for times in TIMES:
        at = x(math.log(times))
        parts.append(tag("text", f"{times}× rows", x=at, y=y.start + 18, text_anchor="middle"))
    ends = {"x1": x(0), "x2": x(math.log(TIMES[-1])), "y1": y(0), "y2": y(math.log(TIMES[-1]))}
    return [*parts, tag("line", **ends, stroke="#999", stroke_dasharray="5 4")]
