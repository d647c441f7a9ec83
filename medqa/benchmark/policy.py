"""lm-eval's model class on a model of this project, with the row cache before it."""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

import lm_eval.api.task
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from medqa.runtime.progress import track
from medqa.runtime.row_cache import RowCache

# Its bars over the rows of each task say nothing: building prompts takes no time.
lm_eval.api.task.tqdm = lambda rows, **_: rows

Result = tuple[float, bool]  # a log-probability in nats, and whether greedy decoding would write the same


class Policy(HFLM):
    """A model that scores prompt by prompt, so that no result depends on the length of others.

    Results are on the disk within a second of work: a run that is killed goes on from there. `name` is the
    key and the name of the model in the cache, `identity` all that determines a result beside its texts.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        cache: RowCache | None,
        name: tuple[str, str],
        identity: Sequence[Any],
    ):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=1)
        self.cache, self.cache_name, self.identity = cache, name, identity

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Result]:
        """The result of each request, which is a prompt with one option after it."""
        by_prompt: dict[str, dict[str, Instance]] = {}
        for request in requests:
            prompt, option = request.args
            by_prompt.setdefault(prompt, {})[option] = request
        keys = {prompt: self._key(prompt, list(options)) for prompt, options in by_prompt.items()}
        rows = self.cache.get(*self.cache_name, list(keys.values())) if self.cache else {}
        finished: dict[bytes, list[Result]] = {}
        written = time.monotonic()
        for prompt, options in track(by_prompt.items(), "questions", len(by_prompt), "row"):
            if keys[prompt] not in rows:
                results = super().loglikelihood(list(options.values()), disable_tqdm=True)
                finished[keys[prompt]] = rows[keys[prompt]] = results
            if time.monotonic() - written > 1:
                self._write(finished)
                written = time.monotonic()
        self._write(finished)
        by_text = {
            (prompt, option): result
            for prompt, options in by_prompt.items()
            for option, result in zip(options, rows[keys[prompt]], strict=True)
        }
        return [by_text[request.args] for request in requests]

    def _key(self, prompt: str, options: list[str]) -> bytes:
        return hashlib.sha256(json.dumps(["lm-eval", self.identity, prompt, options]).encode()).digest()

    def _write(self, finished: dict[bytes, list[Result]]) -> None:
        if self.cache and finished:
            self.cache.put(self.cache_name[0], finished)
        finished.clear()
