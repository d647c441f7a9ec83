"""Progress bars: redrawn on a terminal, and whole lines in a log. They also time the rows of a stage."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")

REDRAW_SECONDS = 1.0
LOG_SECONDS = 30.0  # between two lines in a log


def quieten_libraries() -> None:
    """Switch the bars of other libraries off where there is no terminal; call it before they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


class Bar:
    """A bar over `total` units, of which `initial` are done.

    `Bar.row_seconds` counts the seconds of all bars of this process, each from its first unit to its last:
    the time that grows with the rows, without that of loading and compiling.
    """

    row_seconds = 0.0
    total = 0  # units of all bars of this process
    skipped = 0  # those of them that were done before it began
    note = ""  # shown behind the numbers of every bar, where `update` gets none

    def __init__(self, label: str, total: int, unit: str, initial: int = 0, shown: bool = True) -> None:
        from tqdm import tqdm

        is_terminal = sys.stderr.isatty()
        seconds = REDRAW_SECONDS if is_terminal else LOG_SECONDS
        self.first_update = 0.0
        Bar.total += total
        Bar.skipped += initial
        self.bar = tqdm(
            desc=label,
            total=total,
            unit=unit,
            initial=initial,
            mininterval=seconds,
            miniters=1,  # looks at the clock at each unit: else a thread of tqdm adds lines of its own
            file=sys.stderr if is_terminal else LogLines(sys.stderr),
            disable=not shown,  # always set: TQDM_DISABLE is for the bars of libraries
        )

    def update(self, note: str = "") -> None:
        """Count one unit more; the note is shown behind the numbers."""
        self.first_update = self.first_update or time.monotonic()
        if note := note or Bar.note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """Show the last state, and count the seconds."""
        self.bar.close()
        if self.first_update:
            Bar.row_seconds += time.monotonic() - self.first_update


def track(items: Iterable[Item], label: str, total: int, unit: str) -> Iterator[Item]:
    """The items, one by one, with a bar that counts them."""
    bar = Bar(label, total, unit)
    try:
        for item in items:
            yield item
            bar.update()
    finally:
        bar.close()


class LogLines:
    """A stream that makes a line of each state of a bar."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Write the text as one line, unless it is blank."""
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()
