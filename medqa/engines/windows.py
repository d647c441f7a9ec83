"""Windows: the rows that a replica computes in one call. Neighbours with a common prompt stay together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medqa.engines.base import Request

WINDOWS = 4  # per replica if there are enough rows: then a slow one does not delay the others
LARGEST = 8  # batches per window: rows are kept when their window is done
DEATHS = 2  # of replicas per window: it may be what kills them


@dataclass(eq=False)
class Window:
    """Requests that one replica computes in one call, and how many replicas died of them."""

    requests: Sequence[Request]
    deaths: int = 0

    def retries(self) -> "list[Window]":
        """What is done again after a death: the window, after DEATHS its halves; nothing of a single row."""
        if self.deaths < DEATHS:
            return [self]
        middle = len(self.requests) // 2
        # One death is behind a half already: a row that kills is found in few.
        return [Window(half, 1) for half in (self.requests[:middle], self.requests[middle:]) if middle]


def windows(requests: Sequence[Request], replicas: int, batch_size: int) -> Iterator[Window]:
    """Neighbouring requests, never cut between equal prompts: at least WINDOWS per replica, of whole batches.

    With few rows, each replica has its share of them.
    """
    share = -(-len(requests) // replicas)
    size = max(1, min(share, LARGEST * batch_size, max(batch_size, -(-share // WINDOWS))))
    start = 0
    while start < len(requests):
        end = min(start + size, len(requests))
        while end < len(requests) and requests[end].messages == requests[end - 1].messages:
            end += 1
        yield Window(requests[start:end])
        start = end
