"""What generation and judging ask of a model.

The code above an engine knows three operations: *generate*, *label probabilities*, and the *log-probability
of an answer*. A test may pass any object with them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from medqa.prompts import Messages
from medqa.runtime.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How an answer is written. Temperature 0 is greedy; seeds then play no part."""

    temperature: float
    top_p: float
    max_new_tokens: int


ARITHMETIC = (
    6  # raise it with every change below that can change a result: rows of the store made before are not used
)
CHUNK = 8  # batches that are asked for at once and then kept: rows take each other's places, and few stay alone at the end
EVERYTHING = 1 << 40  # rows a chunk, of an engine that tells of rows before the chunk is done


@dataclass(frozen=True)
class Completion:
    """One answer; `finish_reason` is `stop`, `length` (the token limit cut it off) or `failed` (the row was left
    undone).
    """

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True)
class Labels:
    """The probability of each label among the labels (they sum to 1), and the mass they hold in all."""

    probabilities: tuple[float, ...]
    mass: float


@dataclass(frozen=True)
class Likelihood:
    """The log-probability of an answer with its end-of-turn token, in nats, summed over its `tokens`."""

    nats: float
    tokens: int


class RowError(UserError):
    """What is wrong with one row; `row` is its place in what was asked."""

    def __init__(self, row: int, message: str):
        super().__init__(row, message)
        self.row, self.message = row, message

    def __str__(self) -> str:
        return f"row {self.row + 1}: {self.message}"


_CALLED: ContextVar[Callable[[int], str]] = ContextVar("called", default=lambda row: f"row {row + 1}")


def called(row: int) -> str:
    """What a row is called where it is asked for: its id within `naming`, else its place from 1."""
    return _CALLED.get()(row)


@contextmanager
def naming(ids: Sequence[str]) -> Iterator[None]:
    """Within it, whatever an engine says of a row names the row's id instead of its place."""
    before = _CALLED.set(lambda row: ids[row])
    try:
        yield
    except RowError as error:
        raise UserError(f"{ids[error.row]}: {error.message}") from error
    finally:
        _CALLED.reset(before)


@contextmanager
def placing(owners: Sequence[int]) -> Iterator[None]:
    """Within it, what an engine says of a row is said of the row's owner: several prompts may ask for one."""
    above = _CALLED.get()
    before = _CALLED.set(lambda row: above(owners[row]))
    try:
        yield
    except RowError as error:
        raise RowError(owners[error.row], error.message) from error
    finally:
        _CALLED.reset(before)


class Engine(Protocol):
    """Results come in the order of what was asked, one for each."""

    def generate(
        self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]: ...

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]: ...

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]: ...


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """The 62-bit seed of one sample: the same wherever, whenever and beside whatever it is drawn."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}\n{question_id}\n{sample}".encode()).digest()[:8], "big") >> 2
    )
