"""Training on a Ray cluster: Ray Train's workers train as one, and report to the stage's process.

No disk is shared. Rows, models and the latest checkpoint reach the workers through Ray's object store;
progress, checkpoints and outputs come back through a queue, and the stage's process alone writes them.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from math import ceil
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from medqa import hub
from medqa.runtime import cluster, tracking, transfer
from medqa.runtime.errors import UserError
from medqa.training import checkpoints, worker
from medqa.training.recorder import Recorder

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    from medqa.runtime.compute_section import ComputeParams
    from medqa.training.fine_tuning import TrainingJob

TRIES = 3  # from the same step on
# A worker that has ended is noticed within half a second; no actors that count and watch for a dashboard.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
TRACKERS = ("MLFLOW_", "TENSORBOARD_", "TRACKIO_", "WANDB_")  # environment variables of trackers
RERUN = "rerun the stage, it goes on from its last checkpoint"
# In the text of Ray Train's error about a process that ended, whose class is not public.
NODE = re.compile(r"node_ip='([^']*)'")
LAST = "last"  # the message after which none comes
ARRIVED = "arrived"  # the folder, beside the checkpoints, of what a worker sends


def train(
    job: TrainingJob[Any],
    fit: Callable[..., None],
    rows: Sequence[Any],
    adapters: Sequence[Path],
    recorder: Recorder,
) -> None:
    """Run `fit(job, rows, attempt, *adapters)` in workers; after the loss of one, from the last checkpoint.

    Raises UserError for a cluster that is too small, if a worker does, or if three attempts end at one step.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    assert job.compute
    cluster.connect(job.compute)
    if lack := _shortage(job):
        raise UserError(lack)
    tracking.arguments(job.tracking, job.out.name)  # sets variables, which the workers get
    inputs = [transfer.pack(folder) for folder in (hub.local_path(job.base), *adapters)]
    work = {"job": replace(job, compute=None), "fit": fit, "rows": rows, "inputs": inputs}
    ends: list[int] = []  # the step from which each failed attempt would go on
    while True:
        try:
            _attempt(job, work, recorder)
            break
        except (TrainingFailedError, RayError) as error:
            cluster.check_head(job.compute)
            _report_failure(job, _reason(error), ends, recorder)
        while _shortage(job):
            cluster.check_head(job.compute)
            time.sleep(cluster.POLL)
    cluster.disconnect()


def _report_failure(job: TrainingJob[Any], reason: str, ends: list[int], recorder: Recorder) -> None:
    """Show why an attempt failed, and add its step to `ends`. Raises UserError at the third from one step."""
    recorder.end()
    checkpoint = checkpoints.latest(recorder.folder)
    ends.append(checkpoints.step_of(checkpoint) if checkpoint else 0)
    if ends.count(ends[-1]) == TRIES:
        raise UserError(f"{reason}, {TRIES} times at the same step; {RERUN}")
    lack = f" when there is a node more ({lack})" if (lack := _shortage(job)) else ""
    recorder.write(f"{job.stage}: {reason}; training goes on from step {ends[-1]}{lack}\n")


def _shortage(job: TrainingJob[Any]) -> str:
    assert job.compute
    return shortage(job.processes, cluster.resources(job.compute), cluster.nodes())


def shortage(processes: int, each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """What the nodes of a cluster lack to train in so many processes; empty if nothing."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if each["num_gpus"] and gpus < processes:
        return (
            f"compute.processes = {processes}: to train together each needs a GPU of its own, and the "
            f"cluster has {gpus:g}; set it to {gpus:g} for this stage"
        )
    whole = {"num_cpus": each["num_cpus"], "num_gpus": ceil(each["num_gpus"])}
    if (room := cluster.places(nodes, whole)) < processes:
        return (
            f"compute.processes = {processes} with {each['num_cpus']:g} cores each: the nodes of the cluster "
            f"have room for only {room}; lower compute.processes or compute.process_cores"
        )
    return ""


def _attempt(job: TrainingJob[Any], work: Mapping[str, Any], recorder: Recorder) -> None:
    """Train in workers until they end. Raises what a worker raises, or TrainingFailedError."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    assert (compute := job.compute)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    shutil.rmtree(recorder.folder / ARRIVED, ignore_errors=True)  # of an attempt that failed meanwhile
    queue = Queue(maxsize=8, actor_options={"num_cpus": 0, "scheduling_strategy": here})
    checkpoint = checkpoints.latest(recorder.folder)
    parcel = transfer.pack(checkpoint) if checkpoint else None
    variables = {name: text for name, text in os.environ.items() if name.startswith(TRACKERS)}
    trainer = _trainer(
        job, {**work, "checkpoint": parcel, "environment": variables, "queue": queue}, recorder
    )
    outcome: Future[Any] = Future()
    # In a thread, for messages to arrive meanwhile, and for Ctrl-C to end this process at once.
    Thread(target=_complete, args=(outcome, trainer.fit, queue), daemon=True).start()
    failures: list[BaseException] = []
    while (message := _next(queue, compute))[0] != LAST:
        name, arguments = message
        if name == "fail":
            failures += arguments
        else:
            _receive(recorder, name, arguments)
    queue.shutdown()
    if failures:
        raise failures[0]
    outcome.result()


def _next(queue: Queue, compute: ComputeParams) -> tuple[str, list[Any]]:
    """The next message. Raises HeadIsGone if none can come."""
    import ray

    actor: Any = queue.actor
    call = actor.get.remote(None)  # `queue.get` would wait for the head node for ever
    while not cluster.wait([call], compute):
        pass
    message: tuple[str, list[Any]] = ray.get(call)
    return message


def _trainer(job: TrainingJob[Any], work: dict[str, Any], recorder: Recorder) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    assert job.compute
    each = cluster.resources(job.compute)
    return TorchTrainer(
        worker.fit,
        train_loop_config=work,
        scaling_config=ScalingConfig(
            num_workers=job.processes,
            use_gpu=each["num_gpus"] > 0,
            resources_per_worker={"CPU": each["num_cpus"]},
        ),
        run_config=RunConfig(
            name="train",
            # Ray Train writes to ~/ray_results otherwise; this folder goes with the checkpoints.
            storage_path=str((recorder.folder / "ray").resolve()),
            # It would try for ever to start processes for which there is no room any more.
            failure_config=FailureConfig(controller_failure_limit=0),  # type: ignore[call-arg] # of the old API
        ),
    )


def _complete(outcome: Future[Any], fit: Callable[[], Any], queue: Queue) -> None:
    from ray.exceptions import RayError

    try:
        outcome.set_result(fit())
    except BaseException as error:
        outcome.set_exception(error)
    with suppress(RayError):  # a queue that has ended is an error to its reader too
        queue.put((LAST, []))


def _receive(recorder: Recorder, name: str, arguments: Sequence[Any]) -> None:
    """Call a method of the recorder, with the folder that has arrived if one was sent; or keep a chunk."""
    arrived = recorder.folder / ARRIVED
    if name == worker.CHUNK:
        transfer.write(arguments, arrived)
        return
    values = [
        transfer.check(arrived, value.content) if isinstance(value, worker.SentFolder) else value
        for value in arguments
    ]
    getattr(recorder, name)(*values)
    shutil.rmtree(arrived, ignore_errors=True)


def _reason(error: Exception) -> str:
    """Why an attempt failed, in a few words."""
    from ray.exceptions import RayError
    from ray.train import ControllerError, WorkerGroupError

    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for rank, failure in failures.items():
        if node := NODE.search(str(failure)):
            return f"process {rank} of compute.processes died on node {node[1]}: {cluster.cause(failure)}"
    failure = next(iter(failures.values()), error)
    if isinstance(failure, RayError):
        return f"a process that directs the others died: {cluster.cause(failure)}"
    if isinstance(failure, ControllerError) and "StartupTimeout" in type(failure.controller_failure).__name__:
        return "its processes found no free cores, or took too long to start"
    text = str(failure).splitlines()[0]
    if "onnection" in text:  # of gloo or NCCL, in a process that noticed the loss before Ray did
        return "a process of compute.processes died, as it does when memory runs out"
    return f"the processes stopped ({type(failure).__name__}: {text})"
