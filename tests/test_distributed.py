"""Training on a Ray cluster: two processes train as one, survive losses, and fail with one message.

The cluster is real: a head without cores, and two nodes of one core on this machine.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cluster_nodes import VARIABLES, memory_share, on_request, running_nodes
from fault_place import ROOT

from medqa import curves, jsonl, records
from medqa.runtime.cluster import resources
from medqa.runtime.params import read_params
from medqa.training.cluster_training import shortage

# Ray reads them when it is imported.
os.environ |= VARIABLES
pytest.importorskip("ray")

EXAMPLES = [
    records.Example(f"e{n:02}", "open", f"What causes gout {n}?", "It is age. " * (1 + n % 3))
    for n in range(32)
]
PAIRS = [records.Pair(row.id, row.question, row.answer, "nothing", 0.9, 0.1) for row in EXAMPLES]
INPUTS = {
    "sft": "--base base --examples examples.jsonl --out sft2 --curve sft.tsv --metrics sft.json",
    "dpo": "--base base --adapter sft --pairs pairs.jsonl --out dpo2 --curve dpo.tsv --metrics dpo.json",
}
WITHOUT_RAY = (
    "import runpy, sys; sys.modules['ray'] = None; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
GOES_ON = "training goes on from step"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster that `compute.cluster: auto` finds."""
    from ray.cluster_utils import Cluster

    loopback = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=loopback | {"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(node_ip_address="127.0.0.1", num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    del os.environ["RAY_ADDRESS"]
    cluster.shutdown()


def start(models: Path, folder: Path, stage: str, processes: int, cluster: str | None, **changes: int) -> Any:
    """A training stage in a folder of its own, in several processes, with eight rows per step."""
    folder.mkdir(exist_ok=True)
    for name in ("base", "sft"):
        if not (folder / name).exists():
            (folder / name).symlink_to(models / name)
    jsonl.write(folder / "examples.jsonl", EXAMPLES)
    jsonl.write(folder / "pairs.jsonl", PAIRS)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["corpus"] = str(ROOT / raw["corpus"])
    for name in INPUTS:
        raw[name] |= {"batch_size": 8, "micro_batch_size": 4, "epochs": 2, "learning_rate": 0.001} | changes
    raw["compute"] |= {"processes": processes, "cluster": cluster, "checkpoint_minutes": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    env |= {"MEDQA_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    python = ["-m"] if cluster else ["-c", WITHOUT_RAY]
    command = [sys.executable, *python, f"stages.{stage}", *INPUTS[stage].split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return psutil.Popen(command, cwd=folder, env=env, start_new_session=True, **pipes)


def finish(process: Any, folder: Path, stage: str) -> tuple[list[float], bytes, str]:
    """The losses, the weights and the output of a stage that ends well."""
    output, _ = process.communicate()
    assert process.returncode == 0 and "Traceback" not in output, output
    assert not list((folder / "cache" / "checkpoints").glob("*/*"))
    weights = (folder / f"{stage}2" / "adapter_model.safetensors").read_bytes()
    return curves.read_curve(folder / f"{stage}.tsv")["loss"], weights, output


def wait_for_checkpoint(process: Any, folder: Path) -> None:
    while process.poll() is None and not list((folder / "cache" / "checkpoints").glob("*/step-*")):
        time.sleep(0.01)


def training_processes() -> list[psutil.Process]:
    """The processes of Ray Train that belong to the cluster of this test."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def together(nodes: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Losses and weights of both stages in two processes that nobody disturbs."""
    results = {}
    for stage in INPUTS:
        folder = tmp_path_factory.mktemp("together") / stage
        results[stage] = finish(start(models, folder, stage, 2, "auto"), folder, stage)[:2]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("stage", INPUTS)
def test_two_processes_have_the_losses_of_one_without_ray(models, tmp_path, together, stage) -> None:
    alone, *_ = finish(start(models, tmp_path / "one", stage, 1, None), tmp_path / "one", stage)
    assert together[stage][0] == pytest.approx(alone, abs=1e-3) and len(alone) == 8


@pytest.mark.slow
@pytest.mark.parametrize("stage", INPUTS)
def test_a_killed_stage_goes_on_when_it_is_run_again(models, tmp_path, together, stage) -> None:
    folder = tmp_path / "killed"
    killed = start(models, folder, stage, 2, "auto")
    wait_for_checkpoint(killed, folder)
    killed.kill()
    killed.communicate()
    assert not (folder / f"{stage}2").exists()
    *result, _ = finish(start(models, folder, stage, 2, "auto"), folder, stage)
    assert tuple(result) == together[stage]


@pytest.mark.slow
def test_training_goes_on_by_itself_after_the_loss_of_a_process(models, tmp_path, together) -> None:
    process = start(models, tmp_path / "lost", "sft", 2, "auto")
    wait_for_checkpoint(process, tmp_path / "lost")
    training_processes()[0].kill()
    *result, output = finish(process, tmp_path / "lost", "sft")
    assert tuple(result) == together["sft"] and output.count(GOES_ON) == 1
    # The other process may notice it before Ray does, and knows no node.
    assert re.search(
        r"^sft: (a process|process \d) of compute.processes died( on node 127|, as)", output, re.M
    )


@pytest.mark.slow
def test_training_goes_on_when_a_node_is_there_for_one_that_was_lost(
    nodes, models, tmp_path, together, capfd
) -> None:
    process = start(models, tmp_path / "node", "sft", 2, "auto")
    wait_for_checkpoint(process, tmp_path / "node")
    nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
    assert any(GOES_ON in line for line in process.stdout)  # now it waits for a node
    nodes.add_node(node_ip_address="127.0.0.1", num_cpus=1)
    *result, output = finish(process, tmp_path / "node", "sft")
    assert tuple(result) == together["sft"] and GOES_ON not in output
    capfd.readouterr()  # Ray prints the state of the lost node


@pytest.mark.slow
def test_the_loss_of_the_head_node_is_one_line_and_training_goes_on_when_rerun(
    models, tmp_path, together
) -> None:
    folder = tmp_path / "headless"
    with running_nodes(2) as nodes:
        process = start(models, folder, "sft", 2, "auto")
        wait_for_checkpoint(process, folder)
        nodes.kill_head()
        output, _ = process.communicate(timeout=180)
    lines = [line for line in output.splitlines() if "the head node" in line]
    assert process.returncode == 1 and "Traceback" not in output, output
    assert len(lines) == 1 and lines[0] == output.splitlines()[-1] and lines[0].startswith("sft: the head")
    assert list((folder / "cache" / "checkpoints").glob("*/step-*"))
    *result, _ = finish(start(models, folder, "sft", 2, "auto"), folder, "sft")
    assert tuple(result) == together["sft"]


@pytest.mark.slow
def test_cores_that_others_keep_end_the_stage(models, tmp_path, monkeypatch) -> None:
    import ray

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    with running_nodes(1) as nodes:
        ray.init(nodes.cluster.address, logging_level="ERROR", log_to_driver=False)
        other = ray.remote(num_cpus=1)(threading.Event).remote()
        ray.get(other.is_set.remote())  # it has the only core
        process = start(models, tmp_path / "late", "sft", 1, "auto")
        output, _ = process.communicate(timeout=300)
    lines = output.splitlines()
    assert process.returncode == 1 and "Traceback" not in output, output
    assert lines[-1] == (
        "sft: its processes found no free cores, or took too long to start, 3 times at the same step; rerun "
        "the stage, it goes on from its last checkpoint"
    )
    assert sum(GOES_ON in line for line in lines) == 2


@on_request
@pytest.mark.slow
def test_a_worker_without_memory_is_named_with_its_node(models, tmp_path) -> None:
    config = {"memory_usage_threshold": memory_share(beside=1 << 30)}  # driver and worker take more
    with running_nodes(1, _system_config=config):
        process = start(models, tmp_path / "starved", "sft", 1, "auto")
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in output, output
    line = output.splitlines()[-1]
    assert re.match(
        r"sft: .* died( on node 127\.0\.0\.1)?: its node ran low on memory, 3 times at the same step; rerun",
        line,
    )


@pytest.mark.slow
def test_ctrl_c_names_the_checkpoint(nodes, models, tmp_path) -> None:
    process = start(models, tmp_path / "stopped", "sft", 2, "auto")
    wait_for_checkpoint(process, tmp_path / "stopped")
    process.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    output, _ = process.communicate()
    assert process.returncode == 130 and time.monotonic() - interrupted < 5, output
    assert "is kept; dvc repro goes on from there" in output and "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "changes", "line"),
    [
        (
            "auto",
            {"micro_batch_size": 8},
            "sft: batch_size = 8 must be a multiple of micro_batch_size = 8 times compute.processes = 2; "
            "lower micro_batch_size",
        ),
        (
            "ray://127.0.0.1:1",
            {},
            "sft: compute.cluster = 'ray://127.0.0.1:1': training starts inside the cluster; run the stage "
            "on one of its nodes with compute.cluster = auto, or by ray job submit",
        ),
    ],
)
def test_a_wrong_parameter_is_one_line(models, tmp_path, cluster, changes, line) -> None:
    process = start(models, tmp_path / "wrong", "sft", 2, cluster, **changes)
    output, _ = process.communicate()
    assert process.returncode == 1 and output.strip().splitlines() == [line]


@pytest.mark.parametrize(
    ("processes", "gpus", "cores", "nodes", "lack"),
    [
        (2, 0, 1, [{"CPU": 2.0}], ""),
        (3, 0, 1, [{"CPU": 2.0}], "compute.processes = 3 with 1 cores each: .* room for only 2; lower"),
        (3, 0, 2, [{"CPU": 3.0}, {"CPU": 3.0}], ".* with 2 cores each: .* room for only 2; lower"),
        (2, 1, 1, [{}, {"CPU": 2.0, "GPU": 2.0}], ""),
        (3, 1, 1, [{"CPU": 8.0, "GPU": 2.0}], "compute.processes = 3: .* has 2; set it to 2"),
        (2, 1, 4, [{"CPU": 4.0, "GPU": 2.0}], ".* with 4 cores each: .* room for only 1; lower"),
        (2, 0.5, 1, [{"CPU": 8.0, "GPU": 1.0}], "compute.processes = 2: .* has 1; set it to 1"),
    ],
)
def test_a_cluster_that_is_too_small_is_one_line(processes, gpus, cores, nodes, lack) -> None:
    message = shortage(processes, {"num_cpus": cores, "num_gpus": gpus}, nodes)
    assert re.match(lack, message) if lack else not message


@pytest.mark.parametrize(
    ("changes", "nodes", "cores", "gpus"),
    [
        ({}, [{"CPU": 8.0}], 4, 0),
        ({}, [{"CPU": 3.0}, {"CPU": 3.0}], 3, 0),
        ({"processes": 3}, [{"CPU": 3.0}, {"CPU": 3.0}], 1, 0),  # not a third of six: two find no place then
        ({}, [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}], 1, 0),
        ({}, [{}, {"CPU": 8.0, "GPU": 2.0}], 4, 1),
        ({}, [{"CPU": 16.0}, {"CPU": 8.0, "GPU": 2.0}], 4, 1),  # the GPUs are on one node
        ({"process_gpus": 0.5}, [{"CPU": 8.0, "GPU": 1.0}], 4, 0.5),
        ({"processes": 9}, [{"CPU": 2.0}], 1, 0),
        ({"process_cores": 5}, [{"CPU": 2.0}], 5, 0),
        ({}, [], 1, 0),
    ],
)
def test_processes_share_the_cores_of_each_node(monkeypatch, changes, nodes, cores, gpus) -> None:
    monkeypatch.setattr("medqa.runtime.cluster.nodes", lambda: nodes)
    compute = read_params(ROOT / "params.yaml").compute.model_copy(update={"processes": 2} | changes)
    assert resources(compute) == {"num_cpus": cores, "num_gpus": gpus}
