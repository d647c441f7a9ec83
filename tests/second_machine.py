"""A second machine, as far as Linux makes one here: a node with files, processes, memory and name of its own.

It has Python and the libraries at a path that the driver lacks, and nothing of the repository, of the models
or of the driver's temporary folders.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from cluster_nodes import NODE, Nodes
from fault_place import ROOT

UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--mount-proc"]
FILES = """\
python=$1 program=$2 address=$3 cores=$4
shift 4
mount -t tmpfs tmpfs /mnt
mkdir /mnt/python
mount --bind "$python" /mnt/python
for hidden; do [ ! -d "$hidden" ] || mount -t tmpfs tmpfs "$hidden"; done
hostname second-machine
cd /
exec /mnt/python/bin/python -c "$program" "$address" "$cores"
"""
# `ray start` has no way to listen on loopback alone.
PROGRAM = f"""
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
settings = {NODE | {"min_worker_port": 0, "max_worker_port": 0, "include_log_monitor": False}}
settings |= {{"gcs_address": sys.argv[1], "num_cpus": int(sys.argv[2])}}
Node(RayParams(**settings), head=False, shutdown_at_exit=False, spawn_reaper=False)
signal.pause()
"""


@contextmanager
def second_machine(nodes: Nodes, cores: int = 2, wait: bool = True) -> Iterator[subprocess.Popen]:
    """A machine that joins the cluster, until `power_off` or the end; with `wait`, it has joined."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this user or system may not make namespaces (unshare)")
    hidden = {str(ROOT), tempfile.gettempdir(), "/tmp", "/dev/shm"}
    names = ("PYTHONPATH", "MEDQA_CACHE", "HF_HOME", "RAY_ADDRESS", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": "/mnt"}
    arguments = [sys.prefix, PROGRAM, nodes.cluster.address, str(cores), *sorted(hidden)]
    before = nodes.joined()
    machine = subprocess.Popen([*UNSHARE, "sh", "-euc", FILES, "sh", *arguments], env=env)
    try:
        while wait and nodes.joined() == before:
            assert machine.poll() is None, "the machine did not start"
            time.sleep(0.1)
        yield machine
    finally:
        power_off(machine)


def power_off(machine: subprocess.Popen) -> None:
    """End all processes of the machine at once, and with them its connections."""
    machine.kill()  # of its first process, and with it all others
    machine.wait()


def freeze(machine: subprocess.Popen) -> None:
    """Stop the machine: its connections stay open, and no answer comes. So a cut cable looks to others."""
    for process in psutil.Process(machine.pid).children(recursive=True):
        process.suspend()
