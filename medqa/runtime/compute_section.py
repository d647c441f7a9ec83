"""Section `compute` of params.yaml: how work is done. Nothing in it can change a result on one machine."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from medqa.runtime.fields import Count, Float, Int, Section

KEY = "MEDQA_API_KEY"  # the environment variable of the servers' key, if they need one
# Fields of a request that the engine http sets, or relies on being absent.
REQUEST_FIELDS = [
    *("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs"),
    *("top_logprobs", "echo", "n", "stream"),
]


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be like http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ValueError(f"must hold no name and no password; a key goes into the environment variable {KEY}")
    return value.rstrip("/")


def _extra(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(set(REQUEST_FIELDS).intersection(value)):
        raise ValueError(f"must not set {taken[0]}: the engine does")
    return value


class Server(Section):
    """Section `compute.servers.NAME`: the server of the model NAME of `models`, and how to ask it."""

    address: Annotated[str, AfterValidator(_address)]
    """A base URL; several servers need a router before them."""
    model: str = Field(min_length=1)
    """The name that the model is served under."""
    requests: Int = Field(ge=1, le=1024)
    """Requests in flight at once."""
    timeout: Float = Field(gt=0)
    """Seconds per answer; a row that takes longer has failed."""
    patience: Float = Field(ge=0)
    """Seconds of tries while the server is away, busy or broken."""
    extra: Annotated[dict[str, Any], AfterValidator(_extra)]
    """Further fields of every request."""


class ComputeParams(Section):
    """Section `compute`: what cannot change a result. No stage tracks it."""

    engine: Literal["transformers", "http"]
    """`transformers` computes in this process; `http` asks `servers`."""
    servers: dict[str, Server]
    """For the engine http: the server of each model of `models`, by name."""
    generate_batch_size: Count
    """Answers that are generated at once."""
    judge_batch_size: Count
    """Prompts that are read at once."""
    max_failed_rows: Int = Field(ge=0)
    """Rows that one model may fail to do before a stage ends."""
    row_cache: bool
    """Keep every answer and score outside the outputs, and compute none twice."""
    processes: Count
    """Processes that share the rows of a model and train together; one per GPU."""
    checkpoint_minutes: Float = Field(ge=0)
    """Minutes of training between checkpoints; 0: after every step."""
    tracking: Literal["mlflow", "tensorboard", "trackio", "wandb"] | None
    """Where training curves and the summary go besides the files; null: nowhere."""
