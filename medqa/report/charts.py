"""Charts as inline SVG: from numbers to markup. Colours and dashes come from the page's style sheet by class."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 340  # user units; a phone shows a chart about that many pixels wide, so that its text keeps its size
HEIGHT = 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36  # what the axes' labels need
MAX_POINTS = 400  # of a line; more cannot be seen
TWENTIETHS = [place / 20 for place in range(21)]  # the edges that scores are counted between


@dataclass(frozen=True)
class Series:
    """What one line or mark stands for: its name in the legend and its class in the style sheet."""

    name: str
    style: str


@dataclass(frozen=True)
class Dot:
    """A mean with its interval, in a row of `dots`."""

    series: Series
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scale:
    """A linear map from values to user units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def tag(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """An element, its children and attributes escaped; `class_` is class and `stroke_width` is stroke-width."""
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, told, Markup("").join(children))


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high, at most wanted + 1 of them."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step = next(power * times for times in (1, 2, 5, 10) if (high - low) / (power * times) <= wanted)
    return [
        round(n * step, 10) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def lines(title: str, x_label: str, series: Sequence[tuple[Series, Sequence[tuple[float, float]]]]) -> Markup:
    """Line charts over a shared x axis; a long line is thinned to the means of neighbouring points. '' for no
    point.
    """
    drawn = [(named, thinned(points)) for named, points in series if points]
    if not drawn:
        return Markup("")
    xs, ys = ([point[axis] for _, points in drawn for point in points] for axis in (0, 1))
    x = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = Scale(*_roomy(min(ys), max(ys)), HEIGHT - BOTTOM, TOP)
    paths = [
        tag(
            "polyline",
            points=" ".join(f"{x(at)},{y(value)}" for at, value in points),
            class_=f"line {named.style}",
        )
        for named, points in drawn
    ]
    told = "; ".join(
        f"{named.name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for named, points in drawn
    )
    return _figure(title, told, [*_axes(x, y, x_label), *paths], HEIGHT, [named for named, _ in drawn])


def histogram(
    title: str, x_label: str, edges: Sequence[float], series: Sequence[tuple[Series, Sequence[int]]]
) -> Markup:
    """Counts between the edges as stepped outlines, so that several can be laid over each other. '' for no
    count.
    """
    drawn = [(named, counts) for named, counts in series if sum(counts)]
    if not drawn:
        return Markup("")
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, max(max(counts) for _, counts in drawn) * 1.05, HEIGHT - BOTTOM, TOP)
    paths = []
    for named, counts in drawn:
        corners = [
            (x(edge), y(count)) for left, count in enumerate(counts) for edge in edges[left : left + 2]
        ]
        outline = [(x(edges[0]), y(0)), *corners, (x(edges[-1]), y(0))]
        points = " ".join(f"{across},{up}" for across, up in outline)
        paths.append(tag("polyline", points=points, class_=f"step {named.style}"))
    told = "; ".join(f"{named.name}: {sum(counts):,} in all" for named, counts in drawn)
    return _figure(title, told, [*_axes(x, y, x_label), *paths], HEIGHT, [named for named, _ in drawn])


def dots(
    title: str, rows: Sequence[tuple[str, Sequence[Dot]]], low: float, high: float, zero: float | None
) -> Markup:
    """Means as marks with their intervals as whiskers, a label a row, a reference line at `zero`. '' for no
    row.
    """
    rows = [(label, marks) for label, marks in rows if marks]
    if not rows:
        return Markup("")
    marked = [mark for _, some in rows for mark in some]
    low, high = _whole(min(low, *(mark.low for mark in marked)), max(high, *(mark.high for mark in marked)))
    x, parts, at = Scale(low, high, 92, WIDTH - 46), [], 6.0
    for label, marks in rows:
        parts.append(tag("text", label, x=84, y=at + 8 * len(marks) + 4, class_="name", text_anchor="end"))
        for mark in marks:
            parts += _whiskers(x, at + 8, mark, signed=zero == 0)
            at += 16
        at += 10
    grid = [tag("line", x1=x(tick), x2=x(tick), y1=4, y2=at, class_="grid") for tick in ticks(low, high)]
    if zero is not None:
        grid.append(tag("line", x1=x(zero), x2=x(zero), y1=4, y2=at, class_="zero"))
    names = [
        tag("text", _tick(tick), x=x(tick), y=at + 14, text_anchor="middle") for tick in ticks(low, high)
    ]
    told = "; ".join(
        f"{label}, {mark.series.name}: {mark.mean:.3f}, {mark.low:.3f} to {mark.high:.3f}"
        for label, marks in rows
        for mark in marks
    )
    # Where each row has one mark, its label says what it stands for.
    legend = list(dict.fromkeys(mark.series for mark in marked)) if len(marked) > len(rows) else []
    return _figure(title, told, [*grid, *parts, *names], at + 20, legend)


def bar(share: float, style: str = "") -> Markup:
    """A bar for a table's cell, as long as the share."""
    width = round(100 * min(max(share, 0), 1), 2)
    inside = tag("rect", x=0, y=0, width=width, height=10)
    return tag(
        "svg",
        inside,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_=f"bar {style}",
        aria_hidden="true",
    )


def binned(counts: Sequence[Counter[int]], wanted: int = 24) -> tuple[list[float], list[list[int]]]:
    """Edges of equal width for whole numbers, and counts between them; the last bin also takes the longest
    1%.
    """
    total = sum(counts, Counter())
    if not total:
        return [0, 1], [[0] for _ in counts]
    left, top = max(1, math.ceil(0.99 * total.total())), 0
    for top in sorted(total):
        left -= total[top]
        if left <= 0:
            break
    widths = (times * 10**power for power in range(9) for times in (1, 2, 5))
    width = next(width for width in widths if top / width < wanted)
    places = top // width + 1
    result = [[0] * places for _ in counts]
    for row, counter in zip(result, counts, strict=True):
        for value, times in counter.items():
            row[min(value // width, places - 1)] += times
    return [float(place * width) for place in range(places + 1)], result


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points: the means of equally many neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in groups]


def _whiskers(x: Scale, y: float, mark: Dot, signed: bool) -> list[Markup]:
    left, right, style = x(mark.low), x(mark.high), mark.series.style
    return [
        tag("path", d=f"M{left},{y}H{right}M{left},{y - 4}v8M{right},{y - 4}v8", class_=f"whisker {style}"),
        _mark(x(mark.mean), y, style),
        tag(
            "text",
            f"{mark.mean:{'+' if signed else ''}.2f}".replace("-", "−"),
            x=WIDTH,
            y=y + 4,
            text_anchor="end",
        ),
    ]


def _mark(x: float, y: float, style: str) -> Markup:
    """Each model has its own shape, so that colour is never the only sign."""
    if style in ("sft", "longer"):
        return tag("rect", x=round(x - 4, 2), y=y - 4, width=8, height=8, class_=f"mark {style}")
    if style in ("dpo", "likelier"):
        return tag("path", d=f"M{x},{y - 5.5}l5.5,5.5l-5.5,5.5l-5.5,-5.5z", class_=f"mark {style}")
    return tag("circle", cx=x, cy=y, r=4.5, class_=f"mark {style}")


def _axes(x: Scale, y: Scale, x_label: str) -> list[Markup]:
    parts = []
    for tick in ticks(y.low, y.high):
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(tag("text", _tick(tick), x=LEFT - 6, y=y(tick) + 4, text_anchor="end"))
    for tick in ticks(x.low, x.high):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(tag("text", _tick(tick), x=x(tick), y=y.start + 16, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.start, y2=y.start, class_="axis"))
    parts.append(
        tag("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle", class_="name")
    )
    return parts


def _tick(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}").replace("-", "−")


def _roomy(low: float, high: float) -> tuple[float, float]:
    """A little air above and below; 0 belongs to a range that starts near it."""
    span = (high - low) or abs(high) or 1.0
    return (0.0 if 0 <= low < 0.35 * high else low - 0.05 * span), high + 0.05 * span


def _whole(low: float, high: float) -> tuple[float, float]:
    """The range widened to whole ticks, so that the outermost whiskers stand inside the grid."""
    step = min(second - first for first, second in zip(ticks(low, high), ticks(low, high)[1:], strict=False))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _figure(
    title: str, told: str, parts: Sequence[Markup], height: float, legend: Sequence[Series]
) -> Markup:
    style = "several" if len(legend) > 1 else "single"
    box = f"0 0 {WIDTH} {height:g}"
    drawing = tag("svg", *parts, viewBox=box, role="img", aria_label=f"{title}. {told}", class_=style)
    keys = [tag("li", _swatch(series), series.name) for series in legend] if len(legend) > 1 else []
    return tag("figure", tag("figcaption", title), drawing, tag("ul", *keys, class_="legend") if keys else "")


def _swatch(series: Series) -> Markup:
    line = tag("line", x1=0, x2=24, y1=6, y2=6, class_=f"line {series.style}")
    return tag(
        "svg", line, _mark(12, 6, series.style), viewBox="0 0 24 12", class_="swatch", aria_hidden="true"
    )
