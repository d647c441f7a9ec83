"""A small OpenAI-like server on loopback that answers as vLLM does, and can die, be slow or busy, or lie.

`complete` maps (messages, seed) to a text, `top_tokens` maps messages to the likeliest first tokens and their
probabilities, `read` maps token ids to the log-probability of each. `tamper` may change an answer (status,
headers, data) or wait.
"""

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import log
from pathlib import Path
from typing import Any

import yaml

from medqa.engines import server_sampling
from medqa.runtime.compute_section import ComputeParams

PARAMS = Path(__file__).parent.parent / "params.yaml"
Answer = tuple[int, dict[str, str], Any]
Tamper = Callable[[str, Any, int, Answer], Answer]
FILLER = {f"word{index}": 1e-4 / (index + 1) for index in range(40)}


def served_by(server: dict[str, Any]) -> ComputeParams:
    """The section `compute` of the project, with this server of the model `base`."""
    raw = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["compute"]
    return ComputeParams.model_validate(raw | {"engine": "http", "servers": {"base": server}})


class FakeServer:
    """A context manager; `requests` holds the path and the body of each request, in their order."""

    def __init__(
        self,
        complete: Callable[[Any, Any], str] = lambda messages, seed: f"{messages[-1]['content']} {seed}",
        top_tokens: Callable[[Any], dict[str, float]] = lambda messages: {"3": 0.6, "4": 0.3} | FILLER,
        read: Callable[[list[int]], list[float]] = lambda ids: [-0.5] * len(ids),
        tamper: Tamper = lambda path, body, number, answer: answer,
        models: tuple[str, ...] = ("served",),
        port: int = 0,
    ):
        self.complete, self.top_tokens, self.read = complete, top_tokens, read
        self.tamper, self.models = tamper, list(models)
        self.requests: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[socket.socket] = set()
        self.lock, self.dead, self.in_flight, self.most_in_flight = threading.Lock(), False, 0, 0
        self.http = Listener(("127.0.0.1", port), handler(self))
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
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        threading.Thread(target=self.http.shutdown, daemon=True).start()

    def rows(self) -> list[Any]:
        """The bodies of all requests but those for the list of models and those that check the sampling."""
        return [
            body
            for path, body in self.requests
            if path != "/v1/models" and body.get("messages") != server_sampling.QUESTION
        ]

    def answer(self, path: str, body: Any) -> Answer:
        """What vLLM would answer."""
        if path == "/v1/models":
            return 200, {}, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path == "/v1/load_lora_adapter":
            return 404, {}, {"detail": "Not Found"}
        if body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist."
            return 404, {}, {"error": {"message": message, "code": 404}}
        if path == "/v1/completions":
            choice, tokens = self.echo(body), 1
        elif body.get("logprobs"):
            choice, tokens = self.label(body), 1
        else:
            choice, tokens = self.chat(body)
        choice = {"index": 0, "logprobs": None, "finish_reason": "length"} | choice
        usage = {"completion_tokens": tokens}
        return 200, {}, {"id": "1", "model": body["model"], "choices": [choice], "usage": usage}

    def chat(self, body: Any) -> tuple[Any, int]:
        if body["temperature"] == server_sampling.FLAT:  # any token is as likely as any other
            return {"message": {"role": "assistant", "content": f"token{body['seed']}"}}, 1
        words = self.complete(body["messages"], body.get("seed")).split(" ")
        message = {"role": "assistant", "content": " ".join(words[: body["max_tokens"]])}
        if len(words) >= body["max_tokens"]:
            return {"message": message}, body["max_tokens"]
        return {"message": message, "finish_reason": "stop"}, len(words) + 1

    def label(self, body: Any) -> Any:
        ranked = sorted(self.top_tokens(body["messages"]).items(), key=lambda item: -item[1])
        top = [{"token": token, "logprob": log(share)} for token, share in ranked[: body["top_logprobs"]]]
        message = {"role": "assistant", "content": ranked[0][0]}
        return {"message": message, "logprobs": {"content": [top[0] | {"top_logprobs": top}]}}

    def echo(self, body: Any) -> Any:
        assert body["echo"] and body["logprobs"] == 1 and body["max_tokens"] == 1
        return {"text": "", "logprobs": {"token_logprobs": [None, *self.read(body["prompt"])[1:], -1.0]}}


class Listener(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256

    def handle_error(self, *_: Any) -> None:
        """A connection that breaks is what the tests are about."""


def handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    """A request handler that answers for the server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def setup(self) -> None:
            super().setup()
            with server.lock:
                server.connections.add(self.connection)

        def log_message(self, *_: Any) -> None:
            """Nothing: tests look at `requests`."""

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.close_connection = server.dead
            if server.dead:
                return
            body = json.loads(content or "null")
            with server.lock:
                server.requests.append((self.path, body))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                number = len(server.requests)
                server.in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.in_flight)
            try:
                status, headers, data = server.tamper(self.path, body, number, server.answer(self.path, body))
            finally:
                with server.lock:
                    server.in_flight -= 1
            self.close_connection = server.dead
            if server.dead:
                return
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

    return Handler
