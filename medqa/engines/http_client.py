"""The connection to a model server: the `openai` client with its retries, within limits of time and size."""

import json
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, aclosing, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import openai
from anyio.from_thread import start_blocking_portal

from medqa.engines.base import Failure, Request, Results
from medqa.engines.http_answers import INSTEAD, NotFound, ServerError, Unanswered, read_choice
from medqa.runtime.compute_section import KEY, Server
from medqa.runtime.errors import UserError

BUSY = (408, 429, 502, 503, 504)  # HTTP status codes that say nothing about the request
UNSUITABLE = (400, 413, 422)  # those that may be due to one row, for example to its length
LARGEST = 64 << 20  # bytes of an answer
ADVICE = {
    401: f" (the environment variable {KEY} has to hold a key that it accepts)",
    403: f" (the environment variable {KEY} has to hold another key)",
    422: " (a field that it does not know, perhaps of `extra`)",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Operation = Callable[[Request], Awaitable[Any]]


class LimitedClient(httpx2.AsyncClient):
    """An HTTP client whose read time-out is that of a whole answer, which may be no larger than LARGEST."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        body, seconds = bytearray(), self.timeout.read
        try:
            # The time-out of httpx begins again with every byte.
            with anyio.fail_after(seconds):
                response = await super().send(request, **{**options, "stream": True})
                async with aclosing(response):
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > LARGEST:
                            raise ServerError(f"answers with more than {LARGEST >> 20} MB")
        except (TimeoutError, httpx2.ReadTimeout):
            raise Unanswered(f"gives no answer within {seconds:g} s") from None
        headers = {name: value for name, value in response.headers.items() if name != "content-encoding"}
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


class Connection:
    """A server that serves `model`, and an event loop in a thread that asks it.

    Raises UserError for an adapter that the server does not serve.
    """

    def __init__(self, server: Server, model: str, adapter: Path | None = None):
        self.server, self.model = server, model
        self.key = os.environ.get(KEY, "").strip()
        foreign: Any = dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit())
        self.client = openai.AsyncOpenAI(
            base_url=server.address,
            # What the environment holds for OpenAI itself, OPENAI_API_KEY and others, is for no other server.
            api_key=self.key or "none",
            default_headers=foreign,
            # Between tries the client waits 0.5, 1, 2, 4 and then 8 seconds, less up to a quarter.
            max_retries=4 + max(0, math.ceil((server.patience - 6) / 7)),
            http_client=LimitedClient(
                timeout=httpx2.Timeout(server.timeout, connect=min(server.timeout / 2, 10)),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
                # A proxy of the environment cannot reach this machine's own loopback.
                trust_env=urlsplit(server.address).hostname not in LOOPBACK,
            ),
        )
        self.resources = ExitStack()
        self.portal = self.resources.enter_context(start_blocking_portal())
        if adapter:
            try:
                self.portal.call(self._load_adapter, adapter)
            except (ServerError, Unanswered) as error:
                self.close()
                raise UserError(f"{server.address} {error}") from None

    def close(self) -> None:
        self.portal.call(self.client.close)
        self.portal.call(self.portal.stop, True)
        self.resources.close()

    def run(self, requests: Sequence[Request], operation: Operation) -> Results:
        """Yield results as they come, with at most `server.requests` requests in flight."""
        waiting, running = iter(requests), set[Future[tuple[str, Any]]]()
        try:
            while True:
                for request in islice(waiting, self.server.requests - len(running)):
                    running.add(self.portal.start_task_soon(self._attempt, operation, request))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                # Results first, so that an error loses none of them.
                for future in sorted(finished, key=lambda future: future.exception() is not None):
                    yield future.result()
        finally:
            for future in running:
                future.cancel()

    async def _attempt(self, operation: Operation, request: Request) -> tuple[str, Any]:
        try:
            return request.id, await operation(request)
        except Unanswered as error:
            return request.id, Failure(f"{self.server.address} {error}")
        except ServerError as error:
            raise UserError(f"{self.server.address} {error} (row {request.id})") from None

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that the server answers, to a POST if there is a body.

        Raises Unanswered if the server refuses this request or fails at it, and ServerError if its answer is
        anything else, or if there is none within `patience` seconds of tries.
        """
        try:
            if body is None:
                response = await self.client.get(path, cast_to=httpx2.Response)
            else:
                response = await self.client.post(path, cast_to=httpx2.Response, body=body)
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise self._away(f"cannot be reached: {error.__cause__}") from None
            raise Unanswered(f"fails again and again: {error.__cause__!r}") from None
        return self._content(response.status_code, response.content)

    def _away(self, reason: str) -> ServerError:
        return ServerError(
            f"{reason}; patience = {self.server.patience:g} s did not suffice: start the server, or correct "
            "compute.servers, and rerun: with compute.row_cache what was answered is kept"
        )

    def _content(self, status: int, content: bytes) -> dict[str, Any]:
        excerpt = " ".join(content.decode("utf-8", "replace").split())[:300] or "(nothing)"
        excerpt = excerpt.replace(self.key, "***") if self.key else excerpt
        if status in BUSY:
            raise self._away(f"is busy with HTTP {status}: {excerpt}")
        if status >= 500:
            raise Unanswered(f"fails again and again with HTTP {status}: {excerpt}")
        if status >= 400:
            kind = Unanswered if status in UNSUITABLE else NotFound if status == 404 else ServerError
            raise kind(f"refuses with HTTP {status}{ADVICE.get(status, '')}: {excerpt}")
        try:
            data = json.loads(content) if status == 200 else None
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ServerError(
                f"answers with no JSON object but HTTP {status}: {excerpt}; is it a URL with /v1?"
            )
        if data.get("error"):
            raise ServerError(f"answers with an error under HTTP 200: {excerpt}")
        return data

    async def served(self) -> list[str]:
        """The names of the models that the server lists."""
        models = (await self.ask("/models")).get("data")
        if not isinstance(models, list):
            return []
        return [str(model.get("id")) for model in models if isinstance(model, dict)]

    async def send(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The one choice of an answer of `model`, checked."""
        try:
            return read_choice(
                await self.ask(path, {"model": self.model, **fields, **self.server.extra}), self.model
            )
        except NotFound:
            served = await self.served()
        if self.model in served:
            raise ServerError(f"has no {path}; {INSTEAD}")
        names = ", ".join(served)
        raise ServerError(f"serves no model {self.model!r} but {names}; correct `model` in compute.servers")

    async def _load_adapter(self, adapter: Path) -> None:
        """Have the server load the adapter if it does not serve it. `model` holds a hash of its content."""
        if self.model in await self.served():
            return
        # vLLM answers with a line of text, or not at all: what counts is what it serves afterwards.
        with suppress(ServerError, Unanswered):
            body = {"lora_name": self.model, "lora_path": str(adapter.resolve())}
            await self.ask("/load_lora_adapter", body)
        if self.model not in (served := await self.served()):
            raise ServerError(
                f"does not serve the adapter {self.model} (but {', '.join(served)}); start vLLM with "
                f"--enable-lora and --lora-modules {self.model}={adapter}, or with "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
