"""The engine with the row cache before it: only rows that the cache does not know are computed."""

import gc
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Self, cast

from medqa.engines.base import (
    Completion,
    Engine,
    Failure,
    Labels,
    Likelihood,
    NextTokens,
    Request,
    Results,
    Sampling,
    TokenLister,
)
from medqa.runtime.environment import release_memory
from medqa.runtime.errors import UserError
from medqa.runtime.row_cache import VERSION, RowCache

_encode = json.JSONEncoder(sort_keys=True).encode


class CachedEngine:
    """An engine that asks another one for unknown rows alone, and caches them within a second of work.

    `start` makes the other engine when the first row is missing. `model` is the key and the name of the model
    in the cache. `identity` is all that determines a result beside its request: content of the model, dtype,
    device, versions. Equal requests of a call are computed once, and those of later calls too where there is
    a cache: without one, each window of `compute` computes them again. Up to `max_failed` failures are
    reported and yielded, one more raises UserError; none is cached. A result that was not requested raises
    UserError as well.
    """

    def __init__(
        self,
        start: Callable[[], Engine],
        cache: RowCache | None,
        model: tuple[str, str],
        identity: Sequence[Any],
        max_failed: int,
    ):
        self.start, self.cache, self.model, self.identity = start, cache, model, [VERSION, *identity]
        self.max_failed, self.failed = max_failed, 0
        self.engine: Engine | None = None
        self.finished: dict[bytes, tuple[Any, ...]] = {}  # rows that are not yet in the cache
        self.written = 0.0  # when rows were last put into the cache

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is KeyboardInterrupt:
            written = self.cache is not None and self.cache.writes
            rows = f"{RowCache.written} rows of this run are" if written else "no row is"
            raise KeyboardInterrupt(f"{rows} kept in the row cache; dvc repro goes on from there") from None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Results:
        settings, sampled = asdict(sampling), sampling.temperature > 0
        parts = [[row.messages, settings, row.seed if sampled else 0] for row in requests]
        return self._run(Completion, requests, parts, lambda engine, rows: engine.generate(rows, sampling))

    def label_probabilities(self, requests: Sequence[Request], labels: Sequence[str]) -> Results:
        parts = [[row.messages, list(labels)] for row in requests]
        return self._run(
            Labels, requests, parts, lambda engine, rows: engine.label_probabilities(rows, labels)
        )

    def answer_logprobs(self, requests: Sequence[Request]) -> Results:
        parts = [[row.messages, row.answer] for row in requests]
        return self._run(Likelihood, requests, parts, lambda engine, rows: engine.answer_logprobs(rows))

    def next_tokens(self, requests: Sequence[Request], settings: dict[str, Any]) -> Results:
        """Only of an engine in this process; `settings` are for the chat template."""
        parts = [[row.messages, settings] for row in requests]
        return self._run(
            NextTokens,
            requests,
            parts,
            lambda engine, rows: cast(TokenLister, engine).next_tokens(rows, settings),
        )

    def close(self) -> None:
        """Write what is finished and free the memory of the model, so that another one fits beside it."""
        self._write()
        if self.engine is None:
            return
        self.engine.close()
        self.engine = None
        gc.collect()  # a model refers to itself
        release_memory()

    def _run(
        self,
        kind: type,
        requests: Sequence[Request],
        parts: Sequence[list[Any]],
        compute: Callable[[Engine, list[Request]], Results],
    ) -> Results:
        """The result of each request. `parts` holds, per request, what it adds to the key of its row."""
        ids: dict[bytes, list[str]] = defaultdict(list)
        for request, part in zip(requests, parts, strict=True):
            text = _encode([kind.__name__, self.identity, part])
            ids[hashlib.sha256(text.encode()).digest()].append(request.id)
        known = self.cache.get(*self.model, list(ids)) if self.cache else {}
        for key, row in known.items():
            result = kind(*(tuple(value) if isinstance(value, list) else value for value in row))
            yield from ((id, result) for id in ids[key])
        keys = {ids[key][0]: key for key in ids if key not in known}
        unknown = [request for request in requests if request.id in keys]
        if not unknown:
            return
        self.engine = self.engine or self.start()
        try:
            for id, result in _checked(kind, unknown, compute(self.engine, unknown)):
                if isinstance(result, Failure):
                    self._report(id, result)
                else:
                    # Results are flat: vars is astuple without its deep copy.
                    self.finished[keys[id]] = tuple(vars(result).values())
                if time.monotonic() - self.written > 1:
                    self._write()
                yield from ((each, result) for each in ids[keys[id]])
        finally:
            self._write()

    def _write(self) -> None:
        if self.cache and self.finished:
            self.cache.put(self.model[0], self.finished)
        self.finished, self.written = {}, time.monotonic()

    def _report(self, id: str, failure: Failure) -> None:
        self.failed += 1
        if self.failed > self.max_failed:
            raise UserError(f"{id}: {failure.reason}")
        count = f"{self.failed} of at most {self.max_failed}"
        print(f"engine: {id}: {failure.reason}; it is left undone ({count})", file=sys.stderr, flush=True)


def _checked(kind: type, requests: Sequence[Request], results: Iterable[tuple[str, Any]]) -> Results:
    """One result per request, of this kind or a Failure. Raises UserError where an engine gives another."""
    pending = dict.fromkeys(request.id for request in requests)
    try:
        for id, result in results:
            if id not in pending:
                raise UserError(f"{id}: the engine gave a result twice, or unrequested; rerun the stage")
            if not isinstance(result, (kind, Failure)):
                raise UserError(f"{id}: the engine gave no {kind.__name__} for it; rerun the stage")
            del pending[id]
            yield id, result
    except Exception as error:
        error.add_note(f"while the engine worked on {_abbreviated([*pending])}")
        raise
    if pending:
        raise UserError(
            f"the engine gave no result for {len(pending)} of {len(requests)} rows "
            f"({_abbreviated([*pending])}); "
            "rerun the stage, with a smaller batch size in `compute` if it happens again"
        )


def _abbreviated(ids: list[str]) -> str:
    return ", ".join(ids if len(ids) <= 4 else [*ids[:2], "...", *ids[-2:]])
