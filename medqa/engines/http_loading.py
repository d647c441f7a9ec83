"""The engine of a served model, which is compared with the model in this process before the first row."""

import sys
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from medqa import chat
from medqa.engines import server_parity
from medqa.engines.cached import CachedEngine
from medqa.engines.http_engine import ARITHMETIC, HttpEngine
from medqa.engines.server_parity import Subject
from medqa.runtime import row_cache
from medqa.runtime.compute_section import ComputeParams, Server
from medqa.runtime.errors import UserError


def load(
    model_dir: Path,
    adapter: Path | None,
    content: Sequence[str],
    compute: ComputeParams,
    local: Callable[[Path | None], CachedEngine],
) -> CachedEngine:
    """The engine of the server that `compute.servers` names for a model directory, with the row cache.

    `content`: the hashes of the directory and the adapter. The adapter is served under its folder's name and
    hash. `local` makes the engine in this process, of the model with an adapter or None. Raises UserError for
    a model without a server.
    """
    server = compute.servers.get(model_dir.name)
    if server is None:
        raise UserError(
            f"compute.servers has no {model_dir.name!r} ({', '.join(compute.servers) or 'it is empty'}); say "
            "there who serves it, or set compute.engine to transformers"
        )
    # The address changes no answer. How the server was started may, and is not known.
    identity = ["http", ARITHMETIC, server.model, list(content), server.extra]
    format, settings = chat.read(model_dir), server.extra.get("chat_template_kwargs", {})
    # A server renders by its own clock, which the protocol cannot set: another day is another prompt.
    dated = format.dated and (not settings or chat.dated(chat.tokenizer(model_dir), **settings))
    if dated:
        identity.append(str(date.today()))
        _print(f"the chat template of {model_dir} contains the server's date: rows are kept for today only")
    connect = partial(HttpEngine, server, tokenizer=partial(chat.tokenizer, model_dir), chat_format=format)
    subjects = [Subject(server.model, model_dir, partial(connect, server.model, None), partial(local, None))]
    name = server.model
    if adapter:
        model, name = f"{adapter.name}-{content[1][:8]}", f"{server.model} + {adapter.name}"
        subjects.append(Subject(model, adapter, partial(connect, model, adapter), partial(local, adapter)))
    start = partial(_start, server, subjects, dated)
    model_key = "+".join(content), f"{name} over http"
    return CachedEngine(start, row_cache.open_cache(compute), model_key, identity, compute.max_failed_rows)


def _start(server: Server, subjects: Sequence[Subject], dated: bool) -> HttpEngine:
    """The connection to the last of the subjects, after all of them were compared."""
    settings: dict[str, Any] = {**server.extra.get("chat_template_kwargs", {})}
    if dated:
        folder = subjects[0].folder
        settings["chat_template"] = chat.on(date.today(), chat.template(chat.tokenizer(folder), str(folder)))
    _print(f"{server.address}: {server_parity.check(server.address, subjects, settings)}")
    return subjects[-1].connect()


def _print(message: str) -> None:
    print(f"http: {message}", file=sys.stderr, flush=True)
