"""A small OpenAI-like server on loopback, that answers as vLLM does, and can die, be slow, be busy, or lie.

`speaks` maps (messages, seed) to a text, `tops` messages to the likeliest first tokens and their
probabilities, `reads` token ids to the log-probability of each. `spoils` may change an answer (status,
headers, data) or wait.
"""

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], Any]
FILLING = {f"word{place}": 1e-4 / (place + 1) for place in range(40)}


class FakeServer:
    """In use as a context manager; `asked` holds the path and body of each request, in their order."""

    def __init__(
        self,
        speaks: Callable[[Any, Any], str] = lambda messages, seed: f"{messages[-1]['content']} {seed}",
        tops: Callable[[Any], dict[str, float]] = lambda messages: {"3": 0.6, "4": 0.3} | FILLING,
        reads: Callable[[list[int]], list[float]] = lambda ids: [-0.5] * len(ids),
        spoils: Callable[[str, Any, int, Answer], Answer] = lambda path, body, number, answer: answer,
        models: tuple[str, ...] = ("served",),
    ):
        self.speaks, self.tops, self.reads, self.spoils, self.models = (
            speaks,
            tops,
            reads,
            spoils,
            list(models),
        )
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.open: set[socket.socket] = set()
        self.lock, self.dead, self.busy, self.busiest = threading.Lock(), False, 0, 0
        self.http = Listener(("127.0.0.1", 0), handler(self))
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.die()

    def die(self) -> None:
        """As by kill -9: no further connection, and those that are open break."""
        self.dead = True
        self.http.socket.close()
        with self.lock:
            for each in self.open:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        threading.Thread(target=self.http.shutdown, daemon=True).start()

    def rows(self) -> list[Any]:
        """The bodies of all requests but those for the list of models."""
        return [body for path, body in self.asked if path != "/v1/models"]

    def answer(self, path: str, body: Any) -> Answer:
        """What vLLM would say."""
        if path == "/v1/models":
            return 200, {}, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path == "/v1/load_lora_adapter":
            return 404, {}, {"detail": "Not Found"}
        if body["model"] not in self.models:
            return (
                404,
                {},
                {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}},
            )
        made = self.echo(body) if path == "/v1/completions" else self.chat(body)
        return 200, {}, {"id": "1", "model": body["model"], "choices": [made[0]], "usage": made[1]}

    def chat(self, body: Any) -> tuple[Any, Any]:
        if body.get("logprobs"):
            return self.label(body)
        words = self.speaks(body["messages"], body.get("seed")).split(" ")
        cut = len(words) >= body["max_tokens"]
        text = " ".join(words[: body["max_tokens"]])
        message = {"role": "assistant", "content": text}
        usage = {"completion_tokens": body["max_tokens"] if cut else len(words) + 1}
        return {
            "index": 0,
            "message": message,
            "finish_reason": "length" if cut else "stop",
            "logprobs": None,
        }, usage

    def label(self, body: Any) -> tuple[Any, Any]:
        from math import log

        ranked = sorted(self.tops(body["messages"]).items(), key=lambda item: -item[1])[
            : body["top_logprobs"]
        ]
        top = [{"token": token, "logprob": log(share)} for token, share in ranked]
        message = {"role": "assistant", "content": ranked[0][0]}
        logprobs = {"content": [top[0] | {"top_logprobs": top}]}
        return {"index": 0, "message": message, "finish_reason": "length", "logprobs": logprobs}, {
            "completion_tokens": 1
        }

    def echo(self, body: Any) -> tuple[Any, Any]:
        assert body["echo"] and body["logprobs"] == 1 and body["max_tokens"] == 1
        each = [None, *self.reads(body["prompt"])[1:], -1.0]
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": {"token_logprobs": each}}
        return choice, {"completion_tokens": 1}


class Listener(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256

    def handle_error(self, *_: Any) -> None:
        """A connection that breaks is what the tests are about."""


def handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    """A request handler that asks the server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def setup(self) -> None:
            super().setup()
            with server.lock:
                server.open.add(self.connection)

        def log_message(self, *_: Any) -> None:
            """Nothing: tests look at `asked`."""

        def do_GET(self) -> None:
            told = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.close_connection = server.dead
            if server.dead:
                return
            body = json.loads(told or "null")
            with server.lock:
                server.asked.append((self.path, body))
                server.headers.append(dict(self.headers))
                number = len(server.asked)
                server.busy += 1
                server.busiest = max(server.busiest, server.busy)
            try:
                status, headers, data = server.spoils(self.path, body, number, server.answer(self.path, body))
            finally:
                with server.lock:
                    server.busy -= 1
            self.close_connection = server.dead
            if server.dead:
                return
            told = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(told))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told)

        do_POST = do_GET

    return Handler
