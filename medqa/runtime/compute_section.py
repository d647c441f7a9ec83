"""Section `compute` of params.yaml: how work is done. Nothing in it can change a result on one machine."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

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


def _cluster(value: str) -> str:
    if value not in ("local", "auto") and not value.startswith("ray://"):
        raise ValueError("must be local, auto, or an address like ray://10.0.0.5:10001")
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
    cluster: Annotated[str, AfterValidator(_cluster)] | None
    """The Ray cluster of the processes: `local` starts one here, `auto` or a `ray://` address joins one."""
    processes: Count
    """Processes that share the rows of a model and train together; more than one needs a `cluster`."""
    process_cores: Count | None
    """Processor cores per process of a cluster; null: as many as all find places with."""
    process_gpus: Annotated[Float, Field(ge=0)] | None
    """GPUs per process of a cluster, also a share of one; null: one where the cluster has GPUs."""
    checkpoint_minutes: Float = Field(ge=0)
    """Minutes of training between checkpoints; 0: after every step."""
    tracking: Literal["mlflow", "tensorboard", "trackio", "wandb"] | None
    """Where training curves and the summary go besides the files; null: nowhere."""

    @model_validator(mode="after")
    def _needs_cluster(self) -> Self:
        if self.processes > 1 and self.cluster is None:
            raise ValueError(f"has processes = {self.processes} and no cluster; set cluster to local")
        return self
