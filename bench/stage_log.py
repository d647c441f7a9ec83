"""What the stages of a pipeline report in the output of `dvc repro`."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

_STARTED = re.compile(r"Running stage '([^']+)'")
_ENDED = re.compile(r"^\w+: (.*) \((\d+) s, peak memory ([\d.]+) GB\)$")


def stages(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Each stage that ended, with its seconds, its peak memory in GB and its own summary."""
    stage = ""
    for line in lines:
        if match := _STARTED.search(line):
            stage = match[1]
        elif match := _ENDED.match(line.strip()):
            seconds, peak = int(match[2]), float(match[3])
            yield {"stage": stage, "seconds": seconds, "peak_gb": peak, "summary": match[1]}
