"""The engine behind a server: any that speaks OpenAI's protocol (vLLM, SGLang, transformers serve).

One request is one row, so that each has its own seed and none depends on `n`. Every answer is checked against
its request; a server that leaves something out or makes it up ends the stage with an error that names it.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from medqa import chat
from medqa.engines import http_answers, server_sampling, thinking
from medqa.engines.base import Completion, Labels, Likelihood, NextTokens, Request, Sampling
from medqa.engines.http_answers import INSTEAD, Unanswered
from medqa.engines.http_client import Connection, Results
from medqa.prompts import Messages, escape_control_tokens, reply
from medqa.runtime.compute_section import Server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARITHMETIC = 2  # raise it with every change below that can change a result
TOP = 20  # tokens listed of an answer's first: the most that vLLM and OpenAI give by default
# At temperature 1 a server may take logarithms before or after it applies the temperature.
FIRST_TOKEN = {
    "max_tokens": 1,
    "temperature": 1,
    "top_p": 1,
    "logprobs": True,
    "top_logprobs": TOP,
}
# llama.cpp lists nothing where it draws the end of the answer or part of a character; another seed may not.
FIRST_TOKEN_SEEDS = range(8)


class HttpEngine:
    """A served model. `tokenizer` loads the tokenizer of the model, which `answer_logprobs` alone needs."""

    def __init__(
        self,
        server: Server,
        model: str,
        adapter: Path | None,
        tokenizer: "Callable[[], PreTrainedTokenizerBase]",
        chat_format: chat.ChatFormat,
    ):
        self.server, self.tokenizer, self.chat_format = server, tokenizer, chat_format
        self.connection, self.lock = Connection(server, model, adapter), anyio.Lock()
        self.greedy_checked = self.draws_checked = self.escapes_reported = False

    def close(self) -> None:
        self.connection.close()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Results:
        """Raises UserError for a server that does not write as `sampling` states."""
        self.chat_format.check_room(sampling.max_new_tokens)

        async def answer(request: Request) -> Completion:
            async with self.lock:
                await self._check_sampling(sampling)
            return await self._complete(request.messages, sampling, request.seed)

        return self.connection.run(requests, answer)

    def label_probabilities(self, requests: Sequence[Request], labels: Sequence[str]) -> Results:
        """Read from the TOP likeliest first tokens."""

        async def score(request: Request) -> Labels:
            return http_answers.read_labels(await self._first_token(request), labels, TOP)

        return self.connection.run(requests, score)

    def next_tokens(self, requests: Sequence[Request]) -> Results:
        """The TOP likeliest first tokens as the server lists them; a Failure where it lists none."""

        async def read(request: Request) -> NextTokens:
            return http_answers.read_next_tokens(await self._first_token(request))

        return self.connection.run(requests, read)

    def answer_logprobs(self, requests: Sequence[Request]) -> Results:
        """Tokenised here as the engine in the process does it, and read from `echo` as lm-eval-harness does.

        Raises UserError for a server that gives no log-probabilities of the prompt.
        """
        tok, settings = self.tokenizer(), self.server.extra.get("chat_template_kwargs", {})

        def encode(messages: Messages, prompt: bool) -> list[int]:
            text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **settings)
            return tok(text, add_special_tokens=False).input_ids

        async def read(request: Request) -> Likelihood:
            ids = encode([*request.messages, *reply(request.answer)], False)
            start = chat.common_prefix(encode(request.messages, True), ids)
            fields = {"prompt": ids, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
            try:
                choice = await self.connection.send("/completions", fields)
            except Unanswered as error:
                raise Unanswered(f"{error}; a server has to echo token ids here: {INSTEAD}") from None
            return http_answers.read_likelihood(choice, start, len(ids))

        return self.connection.run(requests, read)

    async def _check_sampling(self, sampling: Sampling) -> None:
        """Once per kind of sampling, before its first row."""
        extra = self.server.extra
        if not self.greedy_checked:
            await server_sampling.check_greedy(self._ask, extra)
            self.greedy_checked = True
        if not self.draws_checked and sampling.temperature > 0:
            for notice in await server_sampling.check_draws(self._complete, sampling.top_p, extra):
                _print(f"{self.server.address} {notice}")
            self.draws_checked = True

    async def _first_token(self, request: Request) -> dict[str, Any]:
        for seed in FIRST_TOKEN_SEEDS:
            choice = await self._ask(request.messages, FIRST_TOKEN | {"seed": seed})
            if http_answers.top_logprobs(choice) or not http_answers.without_text(choice):
                return choice
        raise Unanswered(
            f"gives no text and no logprobs in one token, with any of {len(FIRST_TOKEN_SEEDS)} seeds"
        )

    async def _complete(self, messages: Messages, sampling: Sampling, seed: int) -> Completion:
        fields = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": 1}
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p, "seed": seed}
        choice = await self._ask(messages, fields)
        # Separated before control tokens are escaped: the tags around thoughts would be, too.
        parts = http_answers.read_message(choice, sampling.max_new_tokens)
        text = thinking.join(*(self._escape_answer(part).strip() for part in parts))
        # Servers count the end-of-turn token, the engine in the process does not.
        ended = choice["finish_reason"] == "stop"
        return Completion(text, choice["finish_reason"], max(choice["tokens"] - ended, 0))

    async def _ask(self, messages: Messages, fields: dict[str, Any]) -> dict[str, Any]:
        """The one choice of the server's answer to a chat."""
        # The server tokenises them: control tokens of its model have to be escaped before.
        escaped = [
            {**message, "content": self.chat_format.escape_control_tokens(message["content"])}
            for message in messages
        ]
        return await self.connection.send("/chat/completions", {"messages": escaped, **fields})

    def _escape_answer(self, text: str) -> str:
        escaped = self.chat_format.escape_control_tokens(escape_control_tokens(text))
        if escaped != text and not self.escapes_reported:
            self.escapes_reported = True
            _print(f"{self.server.address} writes control tokens into texts; they are kept as plain text")
        return escaped


def _print(message: str) -> None:
    print(f"http: {message}", file=sys.stderr, flush=True)
