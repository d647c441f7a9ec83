"""The table of `medqa check`: what each stage costs, and all of them together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

WIDTH = 100  # columns
UNKNOWN = "unknown"
TIME_FACTOR = 3  # of a calculated time, either way
MEMORY_FACTOR = 1.5  # of a calculated memory, either way
COLUMNS = ("time", "memory", "GPU memory", "disk", "download")


@dataclass(frozen=True)
class Cost:
    """What one stage costs; None for what cannot be known."""

    stage: str
    seconds: float | None
    memory_gb: float | None  # of the machine, at its peak
    gpu_gb: float | None  # of the GPU, at its peak; 0 without one
    disk_gb: float | None  # more than now
    download_gb: float | None
    basis: str  # measured, calculated, unknown or off

    def with_disk(self, gigabytes: float) -> "Cost":
        """The same with another disk."""
        return replace(self, disk_gb=gigabytes)

    def cells(self) -> list[str]:
        """The cells of the table; a calculated time or memory has a ~."""
        about = "~" if self.basis == "calculated" else ""
        return [
            self.stage,
            _unless_unknown(self.seconds, about, duration),
            _unless_unknown(self.memory_gb, about, size),
            _unless_unknown(self.gpu_gb, about, size),
            _unless_unknown(self.disk_gb, "", size),
            _unless_unknown(self.download_gb, "", size),
            self.basis,
        ]


def render(costs: Sequence[Cost], unchanged: int) -> str:
    """The table of the stages that would run, their total, and what the signs mean; at most WIDTH columns."""
    if not costs:
        return f"no stage would run: all {unchanged} are up to date"
    lines = [_line(["stage", *COLUMNS, "from"]), *(_line(cost.cells()) for cost in costs)]
    lines += [_line(total(costs).cells()), *_notes(costs, unchanged)]
    return "\n".join(lines)


def total(costs: Sequence[Cost]) -> Cost:
    """Sums of what is known of time, disk and download; the highest memory."""
    known = {
        name: [value for cost in costs if (value := getattr(cost, name)) is not None]
        for name in ("seconds", "memory_gb", "gpu_gb", "disk_gb", "download_gb")
    }
    bases = {cost.basis for cost in costs} - {"off"}
    basis = "calculated" if bases & {"calculated"} else "measured"
    return Cost(
        "total",
        sum(known["seconds"]) if known["seconds"] else None,
        max(known["memory_gb"], default=None),
        max(known["gpu_gb"], default=None),
        sum(known["disk_gb"]) if known["disk_gb"] else None,
        sum(known["download_gb"]) if known["download_gb"] else None,
        basis,
    )


def _notes(costs: Sequence[Cost], unchanged: int) -> Iterator[str]:
    yield (
        f"{len(costs)} stages would run, {unchanged} are up to date. DVC restores a stage that it ran before "
        "with the same inputs."
    )
    if all(cost.download_gb == 0 for cost in costs):
        yield "Nothing is downloaded."
    if any(cost.basis == "calculated" for cost in costs):
        yield (
            f"~ is calculated from model shapes: time on an idle machine within a factor of {TIME_FACTOR}, "
            f"memory of {MEMORY_FACTOR}."
        )
    unknown = [cost.stage for cost in costs if None in (cost.seconds, cost.download_gb)]
    if unknown:
        names = ", ".join(unknown[:4]) + (" and others" if unknown[4:] else "")
        yield f"The total leaves out what is unknown of {names}."


def _line(cells: Sequence[str]) -> str:
    first, *rest, last = cells
    return f"{first:18}" + "".join(f"{cell:>13}" for cell in rest) + f"  {last}"


def _unless_unknown(value: float | None, about: str, text: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else f"{about if value else ''}{text(value)}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def size(gigabytes: float) -> str:
    """Gigabytes as people say them."""
    if not gigabytes:
        return "-"
    return f"{gigabytes:.1f} GB" if gigabytes >= 0.1 else f"{max(1, gigabytes * 1000):.0f} MB"
