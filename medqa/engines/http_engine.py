"""The engine behind a server: any that speaks OpenAI's protocol (vLLM, SGLang, transformers serve).

One request is one row, so that each has its own seed and none depends on `n`. What comes back is checked
against what was asked; a server that leaves something out or makes it up ends the stage with an error that
names it.
"""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from medqa import chat
from medqa.engines import http_answers, thinking
from medqa.engines.base import EVERYTHING, Completion, Engine, Labels, Likelihood, RowError, Sampling
from medqa.engines.cached import CachedEngine
from medqa.engines.http_answers import INSTEAD
from medqa.engines.pool import Pool
from medqa.engines.servers import Client, Refused, Unanswered, Unreached
from medqa.prompts import Messages, escape_control_tokens, reply
from medqa.runtime import row_cache
from medqa.runtime.errors import UserError
from medqa.runtime.sections import ComputeParams

ARITHMETIC = 2  # raise it with every change below that can change a result
TOP = 20  # tokens listed for a label: what vLLM and OpenAI give at most, unless told otherwise
UNKNOWN = chat.ChatFormat()
PROBES = (1, 1, 2)  # seeds: the first two have to give one text, the third another


class HttpEngine:
    """A served model. `finished` is told of each row as soon as it is there, by its place in what was asked."""

    def __init__(
        self,
        pool: Pool,
        model: str,
        adapter: Path | None,
        tokenizer: Callable[[], Any],
        finished: Callable[[int, Any], None] = lambda place, row: None,
        progress: Callable[[int], Any] = lambda _: None,
        format: chat.ChatFormat = UNKNOWN,
    ):
        self.pool, self.model, self.adapter, self.tokenizer, self.chat = (
            pool,
            model,
            adapter,
            tokenizer,
            format,
        )
        self.finished, self.progress = finished, progress

    def generate(
        self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Raises UserError for a server whose sampled text does not depend on the seed."""
        self.chat.check_room(sampling.max_new_tokens)

        def run(client: Client, row: int) -> Completion:
            if sampling.temperature > 0:
                self._once(client, "seed", lambda: self._check_seed(client, asked[row]))
            return self._completion(client, asked[row], sampling, seeds[row])

        return self._through(len(asked), run)

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]:
        """A label that is not among the TOP likeliest tokens counts as 0, and so does its part of the mass.

        Its true probability is under that of the last token listed, so that mass is never overstated.
        """

        def run(client: Client, row: int) -> Labels:
            # At temperature 1 it makes no difference whether a server takes logarithms before or after
            # sampling.
            sent = {
                "messages": self._messages(asked[row]),
                "max_tokens": 1,
                "temperature": 1,
                "top_p": 1,
                "seed": 0,
            }
            choice, _ = self._sent(
                client, "/chat/completions", sent | {"logprobs": True, "top_logprobs": TOP}
            )
            top = http_answers.listed(client, choice, TOP)
            held = [top.get(label, 0.0) for label in labels]
            mass = math.fsum(held)
            shares = [each / mass for each in held] if mass > 0 else [1 / len(labels)] * len(labels)
            return Labels(tuple(shares), min(mass, 1.0))

        return self._through(len(asked), run)

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]:
        """Tokenised here as the engine in the process does it, and read back by `echo`, as
        lm-evaluation-harness does.

        Raises UserError for a server that gives no log-probabilities of what it was sent.
        """
        tok, settings = self.tokenizer(), self.pool.server.extra.get("chat_template_kwargs", {})

        def ids(turns: Messages, asking: bool) -> list[int]:
            text = tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=asking, **settings)
            return tok(text, add_special_tokens=False).input_ids

        wholes = [
            ids([*messages, *reply(answer)], False) for messages, answer in zip(asked, answers, strict=True)
        ]
        starts = [
            chat.common_prefix(ids(messages, True), whole)
            for messages, whole in zip(asked, wholes, strict=True)
        ]

        def run(client: Client, row: int) -> Likelihood:
            start, whole = starts[row], wholes[row]
            sent = {"prompt": whole, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
            try:
                choice, _ = self._sent(client, "/completions", sent)
            except Refused as error:
                raise Refused(
                    error.status, f"{error}; a server has to echo token ids here: {INSTEAD}"
                ) from None
            return http_answers.likelihood(client, choice, start, len(whole))

        return self._through(len(asked), run)

    def _through(self, rows: int, run: Callable[[Client, int], Any]) -> list[Any]:
        results: list[Any] = [None] * rows

        def work(client: Client, row: int) -> Any:
            try:
                self._once(client, "adapter", lambda: self._load_adapter(client))
                return run(client, row)
            except Unanswered as error:
                raise RowError(row, str(error)) from None
            except Refused as error:
                # These may be the fault of one row, such as one that is too long for the server.
                raise RowError(row, str(error)) if error.status in (400, 413, 422) else error from None

        def finished(row: int, result: Any) -> None:
            results[row] = result
            self.finished(row, result)
            self.progress(1)

        self.pool.run(rows, work, finished)
        return results

    def _once(self, client: Client, what: str, work: Callable[[], None]) -> None:
        with client.lock:
            if what not in client.prepared:
                work()
                client.prepared.add(what)

    def _load_adapter(self, client: Client) -> None:
        """Have the server load the adapter if it does not serve it. Its name says its content, so it is never
        stale.
        """
        if self.adapter is None:
            return
        if self.model in self._served(client):
            return
        # vLLM answers this with a line of text, or not at all: what counts is what it serves then.
        with suppress(UserError):
            client.ask(
                "/load_lora_adapter", {"lora_name": self.model, "lora_path": str(self.adapter.resolve())}
            )
        if self.model not in (served := self._served(client)):
            raise client.wrong(
                f"does not serve the adapter {self.model} (but {_names(served)}); start vLLM with --enable-lora and "
                f"--lora-modules {self.model}={self.adapter}, or with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )

    def _served(self, client: Client) -> list[str]:
        data = client.ask("/models").get("data")
        return (
            [str(each.get("id")) for each in data if isinstance(each, dict)] if isinstance(data, list) else []
        )

    def _check_seed(self, client: Client, messages: Messages) -> None:
        sampling = Sampling(temperature=1.5, top_p=1, max_new_tokens=24)
        first, again, other = (self._completion(client, messages, sampling, seed).text for seed in PROBES)
        if not (first or again or other):
            _say(
                f"{client.address} gives no text within {sampling.max_new_tokens} tokens: its seeds are not checked"
            )
        elif first == again == other:
            raise client.wrong(
                "gives the same text for every seed, even at temperature 1.5, so that all answers to a question would "
                "be one; start it so that it samples (transformers serve: do_sample in the model's generation_config)"
            )
        if first != again:
            _say(
                f"{client.address} gives another text for the same seed: answers are kept, but cannot be made again"
            )

    def _completion(self, client: Client, messages: Messages, sampling: Sampling, seed: int) -> Completion:
        sent = {"messages": self._messages(messages), "max_tokens": sampling.max_new_tokens}
        sent["temperature"] = sampling.temperature
        sent |= {"top_p": sampling.top_p, "seed": seed} if sampling.temperature > 0 else {"top_p": 1}
        choice, tokens = self._sent(client, "/chat/completions", sent)
        # Apart before control tokens are broken up: the tags around thoughts would be, too.
        parts = http_answers.parts(client, choice, tokens, sampling.max_new_tokens)
        thoughts, answer = (self._plain(client, part).strip() for part in parts)
        # Servers count the end-of-turn token, the engine in the process does not.
        done = choice["finish_reason"] == "stop"
        return Completion(thinking.join(thoughts, answer), choice["finish_reason"], max(tokens - done, 0))

    def _messages(self, messages: Messages) -> Messages:
        # The server tokenises them: what is a control token to its model has to be broken before.
        return [{**turn, "content": self.chat.escape_control_tokens(turn["content"])} for turn in messages]

    def _plain(self, client: Client, text: str) -> str:
        safe = self.chat.escape_control_tokens(escape_control_tokens(text))
        if safe != text and "control" not in client.prepared:
            client.prepared.add("control")
            _say(
                f"{client.address} writes control tokens into texts; they are broken up and stay as plain text"
            )
        return safe

    def _sent(self, client: Client, path: str, sent: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The one choice and the number of its tokens, from an answer that is what was asked for."""
        try:
            data = client.ask(path, {"model": self.model, **sent, **self.pool.server.extra})
        except Refused as error:
            if error.status == 404:
                raise self._missing(client, path, error) from None
            raise
        return http_answers.choice(client, data, self.model)

    def _missing(self, client: Client, path: str, error: Refused) -> UserError:
        try:
            served = self._served(client)
        except (UserError, Unreached):
            return error
        if self.model in served:
            return client.wrong(f"has no {path}; {INSTEAD}")
        return client.wrong(
            f"serves no model {self.model!r} but {_names(served)}; correct `model` in compute.servers"
        )


def load(
    model_dir: Path,
    adapter: Path | None,
    content: Sequence[str],
    compute: ComputeParams,
    progress: Callable[[int], Any],
) -> CachedEngine:
    """The engine of the server that `compute.servers` names for a model directory, with the row store before
    it.

    `content`: the hashes of the directory and the adapter. An adapter is served under its folder's name and
    hash.
    """
    server = compute.servers.get(model_dir.name)
    if server is None:
        raise UserError(
            f"compute.servers has no {model_dir.name!r} ({_names(compute.servers) or 'it is empty'}); say there who "
            "serves it, or set compute.engine to transformers"
        )
    model = f"{adapter.name}-{content[1][:8]}" if adapter else server.model
    # Neither where a server stands nor how it is asked changes an answer; how it was started may, and is not
    # known.
    identity = ["http", ARITHMETIC, server.model, list(content), server.extra]
    format, settings = chat.read(model_dir), server.extra.get("chat_template_kwargs", {})
    # A server renders with its own clock, and no field of the protocol stops it: another day is another
    # prompt.
    if format.dated and (not settings or chat.dated(chat.tokenizer(model_dir), **settings)):
        identity.append(str(date.today()))
        _say(
            f"the chat template of {model_dir} says the date, which its server fills in: rows are kept for today only"
        )
    name = f"{server.model} + {adapter.name}" if adapter else server.model

    def start() -> Engine:
        pool, tokenizer = Pool(model_dir.name, server), partial(chat.tokenizer, model_dir)
        return HttpEngine(pool, model, adapter, tokenizer, kept.finished, progress, format)

    opened = row_cache.RowCache(row_cache.path()) if compute.row_cache else None
    # In one chunk: an address never waits for the last row of one.
    kept = CachedEngine(
        start,
        opened,
        ("+".join(content), f"{name} over http"),
        identity,
        EVERYTHING,
        progress,
        compute.max_failed_rows,
    )
    return kept


def _names(names: Sequence[str]) -> str:
    told = list(names)
    return ", ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")


def _say(message: str) -> None:
    print(f"http: {message}", file=sys.stderr, flush=True)
