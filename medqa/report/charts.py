"""Charts as inline SVG. Colours and dashes come from the page's style sheet by class."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medqa.report.svg import Scale, tag, tick_label, ticks

WIDTH = 340  # user units; a phone shows a chart about that many pixels wide, so that its text keeps its size
HEIGHT = 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36  # margins for the labels of the axes
LETTER = 6.2  # the mean width of a letter, for the labels of rows
MAX_POINTS = 400  # per line; more cannot be seen

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """What a line or mark shows: its name in the legend and its class in the style sheet."""

    name: str
    style: str


@dataclass(frozen=True)
class Dot:
    """A mean with its interval, in a row of `dots`."""

    series: Series
    mean: float
    low: float
    high: float


def lines(title: str, x_label: str, series: Sequence[tuple[Series, Sequence[Point]]]) -> Markup:
    """A line chart over a shared x axis; '' if there is no point. Long lines are thinned."""
    curves = [(line, thinned(points)) for line, points in series if points]
    if not curves:
        return Markup("")
    xs, ys = ([point[axis] for _, points in curves for point in points] for axis in (0, 1))
    x = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = Scale(*_padded(min(ys), max(ys)), HEIGHT - BOTTOM, TOP)
    paths = [_polyline(x, y, points, f"line {line.style}") for line, points in curves]
    summary = "; ".join(
        f"{line.name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for line, points in curves
    )
    drawing = [*_axes(x, y, x_label), *paths]
    return _figure(title, summary, drawing, HEIGHT, [line for line, _ in curves])


def histogram(
    title: str, x_label: str, edges: Sequence[float], series: Sequence[tuple[Series, Sequence[int]]]
) -> Markup:
    """Counts between the edges as stepped outlines laid over each other; '' if there is no count."""
    outlines = [(line, counts) for line, counts in series if sum(counts)]
    if not outlines:
        return Markup("")
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, max(max(counts) for _, counts in outlines) * 1.05, HEIGHT - BOTTOM, TOP)
    paths = []
    for line, counts in outlines:
        corners = [
            (edge, count) for left, count in enumerate(counts) for edge in (edges[left], edges[left + 1])
        ]
        points = [(edges[0], 0), *corners, (edges[-1], 0)]
        paths.append(_polyline(x, y, points, f"step {line.style}"))
    summary = "; ".join(f"{line.name}: {sum(counts):,} in all" for line, counts in outlines)
    drawing = [*_axes(x, y, x_label), *paths]
    return _figure(title, summary, drawing, HEIGHT, [line for line, _ in outlines])


def dots(
    title: str, rows: Sequence[tuple[str, Sequence[Dot]]], low: float, high: float, zero: float | None
) -> Markup:
    """Rows of means with whiskers for their intervals, and a reference line at `zero`; '' if empty."""
    rows = [(label, marks) for label, marks in rows if marks]
    if not rows:
        return Markup("")
    marks = [mark for _, row in rows for mark in row]
    low, high = _whole_ticks(
        min(low, *(mark.low for mark in marks)), max(high, *(mark.high for mark in marks))
    )
    left = max(92, LETTER * max(len(label) for label, _ in rows) + 12)
    x, parts, height = Scale(low, high, left, WIDTH - 46), [], 6.0
    for label, row in rows:
        middle = height + 8 * len(row) + 4
        parts.append(tag("text", label, x=left - 8, y=middle, class_="name", text_anchor="end"))
        for mark in row:
            parts += _whiskers(x, height + 8, mark, signed=zero == 0)
            height += 16
        height += 10
    grid = [_vertical(x(tick), 4, height, "grid") for tick in ticks(low, high)]
    if zero is not None:
        grid.append(_vertical(x(zero), 4, height, "zero"))
    labels = [
        tag("text", tick_label(tick), x=x(tick), y=height + 14, text_anchor="middle")
        for tick in ticks(low, high)
    ]
    summary = "; ".join(
        f"{label}, {mark.series.name}: {mark.mean:.3f}, {mark.low:.3f} to {mark.high:.3f}"
        for label, row in rows
        for mark in row
    )
    # Where each row has a single mark, its label names it.
    legend = list(dict.fromkeys(mark.series for mark in marks)) if len(marks) > len(rows) else []
    return _figure(title, summary, [*grid, *parts, *labels], height + 20, legend)


def binned(counts: Sequence[Counter[int]], max_bins: int = 24) -> tuple[list[float], list[list[int]]]:
    """Equally spaced edges for whole numbers, and counts between them; the last bin takes the longest 1%."""
    total = sum(counts, Counter())
    if not total:
        return [0, 1], [[0] for _ in counts]
    remaining, top = max(1, math.ceil(0.99 * total.total())), 0
    for top in sorted(total):
        remaining -= total[top]
        if remaining <= 0:
            break
    widths = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    width = next(width for width in widths if top / width < max_bins)
    bins = top // width + 1
    heights = [[0] * bins for _ in counts]
    for row, counter in zip(heights, counts, strict=True):
        for value, count in counter.items():
            row[min(value // width, bins - 1)] += count
    return [float(edge * width) for edge in range(bins + 1)], heights


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points: the means of equally many neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(sum(axis) / len(group) for axis in zip(*group, strict=True)) for group in groups]


def _polyline(x: Scale, y: Scale, points: Iterable[Point], style: str) -> Markup:
    return tag("polyline", points=" ".join(f"{x(left)},{y(up)}" for left, up in points), class_=style)


def _vertical(x: float, start: float, end: float, style: str) -> Markup:
    return tag("line", x1=x, x2=x, y1=start, y2=end, class_=style)


def _whiskers(x: Scale, y: float, mark: Dot, signed: bool) -> list[Markup]:
    left, right, style = x(mark.low), x(mark.high), mark.series.style
    path = f"M{left},{y}H{right}M{left},{y - 4}v8M{right},{y - 4}v8"
    mean = f"{mark.mean:{'+' if signed else ''}.2f}".replace("-", "−")
    return [
        tag("path", d=path, class_=f"whisker {style}"),
        _mark(x(mark.mean), y, style),
        tag("text", mean, x=WIDTH, y=y + 4, text_anchor="end"),
    ]


def _mark(x: float, y: float, style: str) -> Markup:
    """Each model has its own shape, so that colour is never the only sign."""
    if style in ("sft", "longer"):
        return tag("rect", x=round(x - 4, 2), y=y - 4, width=8, height=8, class_=f"mark {style}")
    if style in ("dpo", "likelier"):
        return tag("path", d=f"M{x},{y - 5.5}l5.5,5.5l-5.5,5.5l-5.5,-5.5z", class_=f"mark {style}")
    if style in ("placebo", "oracle", "similar"):
        side = -1 if style == "oracle" else 1  # a triangle, on its base or on its point
        return tag("path", d=f"M{x},{y - 5 * side}l5.5,{9.5 * side}h-11z", class_=f"mark {style}")
    return tag("circle", cx=x, cy=y, r=4.5, class_=f"mark {style}")


def _axes(x: Scale, y: Scale, x_label: str) -> list[Markup]:
    parts, bottom = [], y.start
    for tick in ticks(y.low, y.high):
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(tag("text", tick_label(tick), x=LEFT - 6, y=y(tick) + 4, text_anchor="end"))
    for tick in ticks(x.low, x.high):
        parts.append(_vertical(x(tick), bottom, bottom + 4, "axis"))
        parts.append(tag("text", tick_label(tick), x=x(tick), y=bottom + 16, text_anchor="middle"))
    label = {"x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 4, "text_anchor": "middle", "class_": "name"}
    axis = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")
    return [*parts, axis, tag("text", x_label, **label)]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range with some room above and below; it includes 0 if it starts near 0."""
    span = (high - low) or abs(high) or 1.0
    return (0.0 if 0 <= low < 0.35 * high else low - 0.05 * span), high + 0.05 * span


def _whole_ticks(low: float, high: float) -> tuple[float, float]:
    """The range widened to whole ticks, so that the outermost whiskers lie inside the grid."""
    marks = ticks(low, high)
    step = min(second - first for first, second in zip(marks, marks[1:], strict=False))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _figure(
    title: str, summary: str, parts: Sequence[Markup], height: float, legend: Sequence[Series]
) -> Markup:
    several = len(legend) > 1
    frame = {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria_label": f"{title}. {summary}"}
    drawing = tag("svg", *parts, **frame, class_="several" if several else "single")
    entries = [tag("li", _swatch(series), series.name) for series in legend] if several else []
    return tag(
        "figure", tag("figcaption", title), drawing, tag("ul", *entries, class_="legend") if several else ""
    )


def _swatch(series: Series) -> Markup:
    line = tag("line", x1=0, x2=24, y1=6, y2=6, class_=f"line {series.style}")
    frame = {"viewBox": "0 0 24 12", "class_": "swatch", "aria_hidden": "true"}
    return tag("svg", line, _mark(12, 6, series.style), **frame)
