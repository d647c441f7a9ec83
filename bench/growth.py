"""How cost grows: each stage at 1, 4 and 16 times the rows, time and memory, and a plot of both."""

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bench import runs
from medqa.report.svg import Scale, tag

FACTORS = (1, 4, 16)
ROWS = {  # the lowest of the three numbers; with random models 16 times as many would take minutes
    "data": {"embedded": 1000, "tiny": 16},
    "sft": {"embedded": 48, "tiny": 2},
    "generate": {"embedded": 16, "tiny": 1},
    "judge": {"embedded": 32, "tiny": 1},
    "pairs": {"embedded": 4000, "tiny": 16},
    "dpo": {"embedded": 24, "tiny": 2},
    "evaluate": {"embedded": 16, "tiny": 1},
}
FILES = ("data", "pairs")  # stages of bench/data.py
LINEAR = 1.1  # the growth counts as linear up to this power of the rows
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b4fa3", "#b8860b", "#3a3a3a", "#008b8b")
PANEL, LEFT, TOP, HEIGHT, GAP = 300, 60, 30, 220, 90


def measure(loads: list[str], rounds: int, out: Path) -> dict[str, Any]:
    """Seconds and MB of each stage at each size, the exponent of the growth, and out/growth.svg."""
    load, result = "tiny" if "tiny" in loads else "embedded", {}
    for name, least in ROWS.items():
        module, contender = ("data", name) if name in FILES else (name, runs.OURS)
        rows = [factor * least[load] for factor in FACTORS]
        measured = [runs.alone(module, load, contender, count) for count in rows]
        seconds = [run["seconds"] for run in measured]
        result[name] = {
            "rows": rows,
            "seconds": seconds,
            "peak_mb": [run["peak_mb"] for run in measured],
            "exponent": exponent(seconds),
            "linear": exponent(seconds) <= LINEAR,
        }
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.svg").write_text(plot(result), encoding="utf-8")
    return result


def exponent(seconds: list[float]) -> float:
    """The power of the rows with which the time grows over the last step: 1 is linear.

    It is below 1 while a constant start-up time still counts.
    """
    return math.log(seconds[-1] / seconds[-2]) / math.log(FACTORS[-1] / FACTORS[-2])


def plot(result: dict[str, Any]) -> Markup:
    """Both panels as SVG, all axes logarithmic, each stage relative to its lowest number of rows."""
    height = TOP + HEIGHT + 60
    parts = [tag("rect", width="100%", height="100%", fill="white")]
    for number, (title, key) in enumerate((("time", "seconds"), ("peak memory", "peak_mb"))):
        left = LEFT + number * (PANEL + GAP)
        x = Scale(0, math.log(FACTORS[-1]), left, left + PANEL)
        y = Scale(math.log(0.5), math.log(2 * FACTORS[-1]), TOP + HEIGHT, TOP)
        parts += axes(x, y, title)
        for stage, colour in zip(result.values(), COLOURS, strict=False):
            values = zip(FACTORS, stage[key], strict=True)
            points = [(x(math.log(factor)), y(math.log(value / stage[key][0]))) for factor, value in values]
            line = " ".join(f"{across},{up}" for across, up in points)
            parts.append(tag("polyline", points=line, fill="none", stroke=colour, stroke_width=2))
    for number, (name, colour) in enumerate(zip(result, COLOURS, strict=False)):
        left, middle = LEFT + 95 * number, height - 12
        parts.append(tag("line", x1=left, x2=left + 18, y1=middle, y2=middle, stroke=colour, stroke_width=3))
        parts.append(tag("text", name, x=left + 24, y=height - 8))
    size = {"width": LEFT + 2 * PANEL + GAP + 40, "height": height}
    namespace = {"xmlns": "http://www.w3.org/2000/svg", "font_family": "sans-serif", "font_size": 12}
    return tag("svg", *parts, **namespace, **size)


def axes(x: Scale, y: Scale, title: str) -> list[Markup]:
    """Axes, grid and the diagonal on which the cost grows as the rows do."""
    parts = [tag("text", f"{title}, times that of the least rows", x=x.start, y=TOP - 12, font_weight="bold")]
    for factor in (0.5, 1, 2, 4, 8, 16, 32):
        height = y(math.log(factor))
        parts.append(tag("line", x1=x.start, x2=x.end, y1=height, y2=height, stroke="#ddd"))
        parts.append(tag("text", f"{factor:g}×", x=x.start - 8, y=height + 4, text_anchor="end"))
    for factor in FACTORS:
        label = f"{factor}× rows"
        parts.append(tag("text", label, x=x(math.log(factor)), y=y.start + 18, text_anchor="middle"))
    end = math.log(FACTORS[-1])
    diagonal = {"x1": x(0), "x2": x(end), "y1": y(0), "y2": y(end)}
    return [*parts, tag("line", **diagonal, stroke="#999", stroke_dasharray="5 4")]
