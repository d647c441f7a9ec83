"""The engine in front of another: what the row store knows is read, what it does not know is made and kept."""

import ctypes
import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from medqa.engines.base import Completion, Engine, Labels, Likelihood, RowError, Sampling, called
from medqa.prompts import Messages
from medqa.runtime.errors import UserError
from medqa.runtime.row_cache import VERSION, RowCache, warn

# What is given for a row that is left undone: an empty answer, labels without mass, a likelihood of no token.
NOTHING = {Completion: Completion("", "failed", 0), Labels: Labels((), 0.0), Likelihood: Likelihood(0.0, 0)}


class CachedEngine:
    """An engine that asks another only for what the store does not know, a chunk at a time, and keeps each
    chunk.

    `load` gives that other engine when it is first needed. `identity` is all that determines its results
    beside what it is asked: model content, dtype, device, versions. A chunk is so many rows. Up to
    `max_failed` rows that the engine cannot do are left undone. Raises UserError if it gives back other than
    one row for each.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        store: RowCache | None,
        model: tuple[str, str],
        identity: Sequence[Any],
        chunk: int,
        progress: Callable[[int], Any] = lambda _: None,
        max_failed: int = 0,
    ):
        self.max_failed, self.failed = max_failed, 0
        self.load, self.store, self.model, self.identity = load, store, model, [VERSION, *identity]
        self.chunk, self.progress, self.engine = chunk, progress, None
        self.asking: list[bytes] = []  # the keys of the chunk that is in work
        self.told: dict[bytes, Sequence[Any]] = {}  # rows of it that came before its end and are not yet kept
        self.early: dict[bytes, Sequence[Any]] = {}  # and those that are
        self.wrote = 0.0  # when rows were last kept

    def finished(self, place: int, row: Any) -> None:
        """For an engine that has rows before the whole chunk is done: they are kept within a second of work."""
        self.told[self.asking[place]] = astuple(row)
        if time.monotonic() - self.wrote > 1:
            self._keep_told()

    def generate(
        self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        settings = {name: getattr(sampling, name) for name in ("temperature", "top_p", "max_new_tokens")}
        drawn = sampling.temperature > 0
        parts = [
            [messages, settings, seed if drawn else 0] for messages, seed in zip(asked, seeds, strict=True)
        ]

        def run(engine: Engine, some: list[int]) -> list[Completion]:
            return engine.generate(
                [asked[index] for index in some], sampling, [seeds[index] for index in some]
            )

        return self._through(Completion, parts, run)

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]:
        def run(engine: Engine, some: list[int]) -> list[Labels]:
            return engine.label_probabilities([asked[index] for index in some], labels)

        return self._through(Labels, [[messages, list(labels)] for messages in asked], run)

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]:
        def run(engine: Engine, some: list[int]) -> list[Likelihood]:
            return engine.answer_logprobs(
                [asked[index] for index in some], [answers[index] for index in some]
            )

        parts = [[messages, answer] for messages, answer in zip(asked, answers, strict=True)]
        return self._through(Likelihood, parts, run)

    def free(self) -> None:
        """Give back the engine's memory, for another model to take; it is loaded again when a row is missing."""
        self.engine = None
        gc.collect()  # a model refers to itself
        # What malloc keeps for the next pass (model.set_up) the next model's weights, being larger, would not
        # take.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)

    def _through(
        self, kind: type, parts: Sequence[Any], run: Callable[[Engine, list[int]], list[Any]]
    ) -> list[Any]:
        told = [json.dumps([kind.__name__, self.identity, part], sort_keys=True).encode() for part in parts]
        keys = [hashlib.sha256(text).digest() for text in told]
        known = self.store.get(*self.model, list(dict.fromkeys(keys))) if self.store else {}
        # In the order asked: rows that share a prompt, or how it begins, come together and are computed
        # together.
        missing = list(
            {key: index for index, key in reversed(list(enumerate(keys))) if key not in known}.values()
        )[::-1]
        self.progress(len(keys) - len(missing))
        try:
            for start in range(0, len(missing), self.chunk):
                some = missing[start : start + self.chunk]
                self.asking = [keys[index] for index in some]
                known |= dict(zip(self.asking, self._rows(kind, run, some), strict=True))
        except KeyboardInterrupt:
            kept = (
                f"{RowCache.written} rows of this run are"
                if self.store and self.store.writes
                else "no row is"
            )
            raise KeyboardInterrupt(f"{kept} kept in the store; dvc repro goes on from there") from None
        return [
            kind(*(tuple(part) if isinstance(part, list) else part for part in known[key])) for key in keys
        ]

    def _rows(self, kind: type, run: Callable[[Engine, list[int]], list[Any]], some: list[int]) -> list[Any]:
        """A chunk's rows, kept. If the engine fails in the midst of it, those that it told of are kept all
        the same.
        """
        self.early, rows, asked = {}, None, self.asking
        left = dict(zip(some, asked, strict=True))
        while rows is None:
            self.asking = list(left.values())
            try:
                rows = [astuple(row) for row in self._asked(kind, run, list(left))]
            except RowError as error:
                self._fail(error)
                del left[error.row]
            finally:
                self._keep_told()
            if rows is None:
                left = {index: key for index, key in left.items() if key not in self.early}
        self.told = {key: row for key, row in zip(self.asking, rows, strict=True) if key not in self.early}
        self._keep_told()
        return [self.early.get(key, astuple(NOTHING[kind])) for key in asked]

    def _fail(self, error: RowError) -> None:
        """Leave a row undone, and say which; nothing is kept of it. Raises the error if there are too many."""
        self.failed += 1
        if self.failed > self.max_failed:
            raise error
        warn(
            f"{called(error.row)}: {error.message}; it is left undone ({self.failed} of at most {self.max_failed})"
        )

    def _keep_told(self) -> None:
        if self.store and self.told:
            self.store.put(self.model[0], self.told)
        self.early |= self.told
        self.told, self.wrote = {}, time.monotonic()

    def _asked(self, kind: type, run: Callable[[Engine, list[int]], list[Any]], some: list[int]) -> list[Any]:
        self.engine = self.engine or self.load()
        try:
            rows = run(self.engine, some)
        except RowError as error:
            error.row = some[error.row]
            raise
        except Exception as error:
            error.add_note(f"while the engine worked on {named(some)}")
            raise
        wrong = [some[place] for place, row in enumerate(rows[: len(some)]) if not isinstance(row, kind)]
        if len(rows) != len(some):
            raise UserError(
                f"the engine gave {len(rows)} results for {len(some)} rows ({named(some)}); none of them is kept; "
                "rerun the stage, with a smaller batch size in `compute` if it happens again"
            )
        if wrong:
            raise RowError(wrong[0], f"the engine gave no {kind.__name__} for it; rerun the stage")
        return rows


def named(some: Sequence[int]) -> str:
    """What the rows of a chunk are called, the first and the last ones."""
    told = [called(row) for row in some]
    return ", ".join(told if len(told) <= 4 else [*told[:2], "...", *told[-2:]])
