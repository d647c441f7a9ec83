"""The Ray cluster of `compute.cluster`: started on this machine, or joined."""

import atexit
import importlib.util
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medqa.runtime import locks
from medqa.runtime.compute_section import ComputeParams
from medqa.runtime.errors import UserError

# No reports of use, and no pages about processes whose end the stage reports in a line: all are skipped.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
# With it Ray's servers listen on loopback alone, on Linux as it does elsewhere: nobody else can reach them.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

TIMEOUT = 5.0  # seconds in which the head node answers
ATTEMPTS = 3
POLL = 1.0  # seconds between two looks at the head node
LOCK = "medqa.lock"  # in the folder of logs and sockets of a local cluster, while its process lives

_SESSIONS: list[Path] = []  # that folder, of the local cluster that this process has started


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
        context: Any = ray.init(compute.cluster, logging_level=logging.ERROR, log_to_driver=False, **options)
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the stage with another code
        if local:
            _take_session(Path(context.address_info["session_dir"]))
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
            "stage, which goes on from its last checkpoint, and with compute.row_cache from its rows"
        )


def wait(calls: Sequence[Any], compute: ComputeParams) -> list[Any]:
    """The calls of Ray that have ended, after POLL seconds at most. Raises HeadIsGone if none can end."""
    import ray

    ended: list[Any] = ray.wait(list(calls), timeout=POLL)[0]
    if not ended:
        check_head(compute)
    return ended


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


def _take_session(session: Path) -> None:
    """Have the folder of the cluster removed at the end, and now those of processes that were killed."""
    locks.take(session / LOCK)
    _SESSIONS.append(session)
    atexit.register(disconnect)
    for lock in session.parent.glob(f"session_*/{LOCK}"):
        if lock.parent != session and locks.take(lock) is None:
            _remove(lock.parent)


def _remove(session: Path) -> None:
    shutil.rmtree(session, ignore_errors=True)
    locks.release(session / LOCK)


def disconnect() -> None:
    """Leave the cluster; one of this machine ends, and its folder of logs and sockets goes."""
    import ray

    ray.shutdown(wait_for_processes=bool(_SESSIONS))
    while _SESSIONS:
        _remove(_SESSIONS.pop())


def cause(error: Exception) -> str:
    """Why a process of the cluster ended, from the text of Ray's error."""
    text = str(error).lower()
    if "node has died" in text or "node was terminated" in text:
        return "its node is gone"
    if "low on memory" in text:
        return "its node ran low on memory"
    if "hanging" in text:
        return "it no longer answers"
    return "its process was killed, as the system does when memory runs out, or crashed"


def resources(compute: ComputeParams) -> dict[str, float]:
    """The `num_cpus` and `num_gpus` of each process, for Ray. Only for a process that is connected.

    Without `compute.process_cores` they are the most cores with which all processes find places on the nodes.
    """
    present = nodes()
    gpus = compute.process_gpus
    if gpus is None:
        gpus = min(1, sum(node.get("GPU", 0) for node in present))

    def all_fit(cores: int) -> bool:
        return places(present, {"num_cpus": cores, "num_gpus": gpus}) >= compute.processes

    most = max((int(node.get("CPU", 0)) for node in present), default=0)
    cores = compute.process_cores or next(filter(all_fit, range(most, 1, -1)), 1)
    return {"num_cpus": cores, "num_gpus": gpus}


def nodes() -> list[dict[str, float]]:
    """What each node of the cluster has: `CPU`, `GPU` and others, which it may lack."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def places(present: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> int:
    """How many processes with `num_cpus` and `num_gpus` each the nodes have room for."""
    needs = {"CPU": each["num_cpus"], "GPU": each["num_gpus"]}
    return sum(min(int(node.get(name, 0) / need) for name, need in needs.items() if need) for node in present)


def _own_code() -> dict[str, Any]:
    return {"py_modules": [str(Path(__file__).resolve().parents[1])]}
