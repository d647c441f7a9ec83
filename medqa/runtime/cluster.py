"""The Ray cluster of `compute.cluster`: started on this machine, or joined."""

import importlib.util
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from medqa.runtime.compute_section import ComputeParams
from medqa.runtime.errors import UserError

# No reports of use, and no pages about processes whose end the stage reports in a line: all are skipped.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
# With it Ray's servers listen on loopback alone, on Linux as it does elsewhere: nobody else can reach them.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

TIMEOUT = 5.0  # seconds in which the head node answers
ATTEMPTS = 3


def connect(compute: ComputeParams) -> None:
    """Connect this process to the cluster, unless it is connected. `disconnect` ends that.

    `local` starts a cluster of this machine, which ends with this process. On other clusters the processes
    get this very code of medqa; its packages have to be there.
    Raises UserError without Ray, or if the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("compute.cluster needs Ray: pip install 'medqa[cluster]', or set it to null")
    local = compute.cluster == "local"
    # Ray reads them when it is imported.
    for name, value in (ENVIRONMENT | (LOOPBACK if local else {})).items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"include_dashboard": False} if local else {"runtime_env": _own_code()}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        # Ray would wait a minute for this one, and end Python. What it finds by itself, it looks for.
        address = os.environ.get("RAY_ADDRESS", "") if compute.cluster == "auto" else ""
        if address.rpartition(":")[2].isdigit() and "://" not in address and not _answers(address):
            raise ConnectionError(f"nothing listens on RAY_ADDRESS = {address}")
        ray.init(compute.cluster, logging_level=logging.ERROR, log_to_driver=False, **options)
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the stage with another code
    except (ConnectionError, TimeoutError) as error:
        raise UserError(
            f"compute.cluster = {compute.cluster!r} does not answer ({str(error).splitlines()[0]}); start "
            "its head node (ray start --head), or set compute.cluster to local"
        ) from None


class HeadIsGone(UserError):
    """The head node of the cluster has ended: until this process ends, each call of Ray may wait for ever."""

    def __init__(self, compute: ComputeParams):
        super().__init__(
            f"the head node of compute.cluster = {compute.cluster!r} is gone; start it again and rerun the "
            "stage, which with compute.row_cache goes on from the rows that are done"
        )


def check_head(compute: ComputeParams) -> None:
    """Raise HeadIsGone if the head node does not answer. Ray itself waits a minute, and ends this process.

    A client of a `ray://` address gets a ConnectionError instead, from any call of Ray.
    """
    import ray

    if (compute.cluster or "").startswith("ray://"):
        return
    if not _answers(ray.get_runtime_context().gcs_address):
        raise HeadIsGone(compute)


def _answers(address: str) -> bool:
    """Whether something listens on host:port."""
    host, _, port = address.rpartition(":")
    for _ in range(ATTEMPTS):
        try:
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()
            return True
        except OSError:
            time.sleep(1)
    return False


def disconnect() -> None:
    """Leave the cluster; one of this machine ends."""
    import ray

    ray.shutdown()


def resources(compute: ComputeParams) -> dict[str, float]:
    """The `num_cpus` and `num_gpus` of each process, for Ray. Only for a process that is connected."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores = compute.process_cores or max(1, int(total.get("CPU", 1)) // compute.processes)
    gpus = compute.process_gpus
    return {"num_cpus": cores, "num_gpus": min(1, total.get("GPU", 0)) if gpus is None else gpus}


def _own_code() -> dict[str, Any]:
    return {"py_modules": [str(Path(__file__).resolve().parents[1])]}
