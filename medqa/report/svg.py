"""Building blocks of the charts: escaped elements, linear scales and round ticks."""

import math
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Scale:
    """A linear map from values (`low` to `high`) to user units (`start` to `end`)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def tag(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """An element with escaped children and attributes; `class_` is class, `stroke_width` is stroke-width."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    text = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, text, Markup("").join(children))


def ticks(low: float, high: float, steps: int = 5) -> list[float]:
    """Round numbers from low to high, at most `steps` + 1 of them."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / steps))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= steps)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick's number as text."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}").replace("-", "−")
