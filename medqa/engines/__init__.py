"""What generation and judging ask of a model.

The code above an engine knows three operations: *generate*, *label probabilities*, and the *log-probability of an
answer*. A test may pass any object with them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from medqa.engines.servers import Server
from medqa.params import Float, Int, Section, UserError
from medqa.prompts import Messages

if TYPE_CHECKING:
    from medqa.engines.stored import Stored


class Params(Section):
    """Section `compute` of params.yaml: what cannot change a result. No stage tracks it."""

    generate_batch_size: Int = Field(ge=1)
    judge_batch_size: Int = Field(ge=1)
    engine: Literal["transformers", "http"]
    servers: dict[str, Server]  # for the engine http: who serves which of `models`
    max_failed_rows: Int = Field(ge=0)  # that one model may leave undone before a stage ends
    store: bool  # keep every answer and score, and never ask a model for one twice
    processes: Int = Field(ge=1)  # that share the rows of a model, and train together
    checkpoint_minutes: Float = Field(ge=0)  # of training; 0 is after every step


class Sampling(Section):
    """How an answer is written. Temperature 0 is greedy; seeds then play no part."""

    temperature: Float = Field(ge=0, le=5)
    top_p: Float = Field(gt=0, le=1)
    max_new_tokens: Int = Field(ge=1)


ARITHMETIC = 6  # raise it with every change below that can change a result: rows of the store made before are not used
CHUNK = (
    8  # batches that are asked for at once and then kept: rows take each other's places, and few stay alone at the end
)
EVERYTHING = 1 << 40  # rows a chunk, of an engine that tells of rows before the chunk is done


@dataclass(frozen=True)
class Completion:
    """One answer; `finish` is `stop`, `length` (the token limit cut it off) or `failed` (the row was left undone)."""

    text: str
    finish: str
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

    def generate(self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]: ...

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]: ...

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]: ...


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """The 62-bit seed of one sample: the same wherever, whenever and beside whatever it is drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{question_id}\n{sample}".encode()).digest()[:8], "big") >> 2


def load(
    model_dir: Path,
    adapter: Path | None,
    dtype: str,
    compute: Params,
    batch_size: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> "Stored":
    """The engine of a model directory with an adapter, if one is given. `progress` is told of each batch's rows.

    With `compute.store`, rows that were made before are read, not made; the model is loaded when one is missing.
    """
    from importlib.metadata import version

    from medqa import hashes, model, store
    from medqa.engines.stored import Stored

    folders = [model_dir, *([adapter] if adapter else [])]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{missing[0]} is not there; rerun the stage that writes it (dvc repro)")
    content = [hashes.of(folder) for folder in folders]
    if compute.engine == "http":
        from medqa.engines import http_engine

        return http_engine.load(model_dir, adapter, content, compute, progress)
    name = " + ".join(folder.name for folder in folders)
    libraries = [version(library) for library in ("torch", "transformers", "gptqmodel")]
    identity = ["transformers", ARITHMETIC, libraries, content, dtype, model.device().split(":")[0]]

    start = partial(_transformers, model_dir, adapter, dtype, batch_size)

    def several() -> Engine:
        from medqa.engines.workers import Workers

        return Workers(start, compute.processes, batch_size, kept.finished, progress)

    opened = store.Store(store.path()) if compute.store else None
    one, loaded = compute.processes == 1, ("+".join(content), name)
    # Workers tell of each piece as it is done, so that none of them ever waits for the last row of a chunk.
    engine, chunk = (partial(start, progress), CHUNK * batch_size) if one else (several, EVERYTHING)
    kept = Stored(engine, opened, loaded, identity, chunk, progress, compute.max_failed_rows)
    return kept


def _transformers(
    model_dir: Path,
    adapter: Path | None,
    dtype: str,
    batch_size: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> Engine:
    from medqa import model
    from medqa.engines import local

    loaded = model.load_merged(model_dir, dtype, adapter)
    return local.Transformers(loaded, model.tokenizer(model_dir), batch_size, progress)
