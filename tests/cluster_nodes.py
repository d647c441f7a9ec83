"""A real cluster of several nodes on this machine, whose nodes a test kills and adds; and its processes."""

import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from fault_place import ROOT

from medqa.runtime import cluster
from medqa.runtime.cluster import ENVIRONMENT, LOOPBACK

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
SLOW = {"RAY_raylet_start_wait_time_s": "300"}  # a node may take long to start on a busy machine
VARIABLES = ENVIRONMENT | LOOPBACK | SLOW | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


# Ray's monitor looks at the memory of the whole machine, in which other programs come and go.
on_request = pytest.mark.skipif(
    "MEDQA_SOAK" not in os.environ, reason="needs a machine without other work; make soak runs it"
)


class Nodes:
    """A cluster of a head without cores and some nodes of one core each, which a test kills and adds."""

    def __init__(self, count: int, **head: Any) -> None:
        from ray.cluster_utils import Cluster

        head = NODE | {"num_cpus": 0, "include_dashboard": False} | head
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(count)]

    def replace(self, rng: random.Random) -> None:
        """Kill a node, and add one."""
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE, wait=False))

    def joined(self) -> int:
        """How many nodes have ever joined."""
        return len(self.cluster.global_state.node_table())

    def kill_head(self) -> None:
        """Kill all processes of the head node: its servers, and whatever ran there."""
        for processes in self.cluster.head_node.all_processes.values():
            for each in processes:
                each.process.kill()


@contextmanager
def running_nodes(count: int, **head: Any) -> Iterator[Nodes]:
    """So many nodes beside the head, that `compute.cluster: auto` finds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        nodes = Nodes(count, **head)
        patch.setenv("RAY_ADDRESS", nodes.cluster.address)
        try:
            yield nodes
        finally:
            cluster.disconnect()  # if the test itself was a driver
            nodes.cluster.shutdown()


def workers(kind: str) -> list[int]:
    """The processes of a kind that nodes of this test run: `Replica`, or `RayTrainWorker`."""
    pids = []
    for process in psutil.Process().children(recursive=True):
        try:
            if kind in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return pids


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """The processes do nothing meanwhile."""
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def running(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(pids: Sequence[int], within: float) -> bool:
    """Whether the processes end in so many seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end and any(map(running, pids)):
        time.sleep(0.05)
    return not any(map(running, pids))


def memory_share(beside: int) -> float:
    """The share of this machine's memory that is in use with so many bytes beside what is in use now."""
    memory = psutil.virtual_memory()
    return (memory.total - memory.available + beside) / memory.total


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
