"""What generation and judging ask of a model: requests go in, results come out as they are ready.

An engine knows three operations: *generate*, *label probabilities*, and the *log-probability of an answer*.
A test may pass any object that has them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

from medqa.prompts import Messages
from medqa.runtime.progress import Bar

# Raise it with every change that can change a result: rows that were cached before are then not used.
ARITHMETIC = 7
# Requests that are in memory at once. An engine is idle while the last rows of a window end: the larger, the
# less often. One of 60 words and an answer take about 2 kB.
WINDOW = 8192

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sampling:
    """How an answer is written. Temperature 0 is greedy; seeds then play no part."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Request:
    """One row of work. `id` names it in results and messages, and is unique within a call."""

    id: str
    messages: Messages
    seed: int = 0  # of a sampled answer
    answer: str = ""  # whose log-probability is computed


@dataclass(frozen=True)
class Completion:
    """A written answer. `finish_reason` is `stop`, or `length` where the token limit cut it off."""

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True)
class Labels:
    """The probability of each label among the labels (they sum to 1), and their mass together."""

    probabilities: tuple[float, ...]
    mass: float


@dataclass(frozen=True)
class Likelihood:
    """The log-probability of an answer with its end-of-turn token, in nats, summed over its `tokens`."""

    nats: float
    tokens: int


@dataclass(frozen=True)
class NextTokens:
    """The likeliest next tokens after a prompt as texts, the likeliest first, and their log-probabilities."""

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]  # nats


@dataclass(frozen=True)
class Failure:
    """A request that the engine could not do, and why, as the rest of a sentence that begins with its id."""

    reason: str


Results = Iterator[tuple[str, Any]]  # of requests, by id, as they are ready


class Engine(Protocol):
    """Each operation yields one (id, result) per request, in any order.

    It raises UserError for what ends a stage.
    """

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[str, Completion | Failure]]: ...

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels | Failure]]: ...

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Likelihood | Failure]]: ...

    def close(self) -> None:
        """Give back what the engine holds: memory, processes, connections."""


class TokenLister(Protocol):
    """A language model in this process, which also lists next tokens: servers are compared with it."""

    def next_tokens(
        self, requests: Sequence[Request], settings: dict[str, Any]
    ) -> Iterator[tuple[str, NextTokens | Failure]]: ...


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """The 62-bit seed of a sample, which depends on these three alone."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}\n{question_id}\n{sample}".encode()).digest()[:8], "big") >> 2
    )


def compute(
    operation: Callable[[Sequence[Request]], Iterable[tuple[str, Result]]],
    rows: Iterable[Sequence[Request]],
    label: str,
    total: int,
) -> Iterator[list[Result]]:
    """The results of the requests of each row, in the order of the `total` rows, which may have no request.

    The operation of an engine is called with a window of rows at a time, of at most WINDOW requests unless a
    row has more. A progress bar of this label counts the rows as they end.
    """
    bar = Bar(label, total, "row")
    try:
        for window in _windows(rows):
            results: dict[str, Result] = {}
            pending = {request.id: number for number, row in enumerate(window) for request in row}
            undone = [len(row) for row in window]
            for id, result in operation(list(chain.from_iterable(window))) if pending else ():
                results[id] = result
                undone[pending[id]] -= 1
                if not undone[pending[id]]:
                    bar.update()
            for row in window:
                if not row:
                    bar.update()
                yield [results[request.id] for request in row]
    finally:
        bar.close()


def _windows(rows: Iterable[Sequence[Request]]) -> Iterator[list[Sequence[Request]]]:
    window: list[Sequence[Request]] = []
    size = 0
    for row in rows:
        width = max(1, len(row))
        if window and size + width > WINDOW:
            yield window
            window, size = [], 0
        window.append(row)
        size += width
    if window:
        yield window
