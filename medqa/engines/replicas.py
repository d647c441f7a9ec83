"""An engine whose rows replicas compute: actors of a Ray cluster, on this machine or on many.

The driver keeps the order, the row cache and the files. A replica gets a window of rows at a time, and its
rows come back when the window is done.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medqa.engines.base import Completion, Engine, Failure, Labels, Likelihood, Request, Sampling
from medqa.engines.replica import ModelFolder
from medqa.engines.replica_handle import ReplicaDied, ReplicaHandle
from medqa.engines.windows import Window, windows
from medqa.runtime import cluster, hashing, transfer
from medqa.runtime.compute_section import ComputeParams
from medqa.runtime.errors import UserError
from medqa.runtime.progress import Bar

PATIENCE = 120.0  # seconds in which a replica has to find free cores
STARTS = 3  # per replica: so often they may die before they are ready


class Replicas:
    """An engine of up to `compute.processes` replicas, in each of which `start` makes an engine.

    `start` has to pickle; it gets the paths of the `model_folders` by name. Rows are yielded when their
    window is done. The window of a replica that dies is done again by another one; UserError for a row that
    kills two. A UserError of a replica is raised when the windows in work are done, any other error at once.
    UserError as well if no replica finds free cores within `patience` seconds, or the head node is gone.
    """

    def __init__(
        self,
        start: Callable[..., Engine],
        model_folders: Mapping[str, Path],
        compute: ComputeParams,
        batch_size: int,
        patience: float = PATIENCE,
    ):
        cluster.connect(compute)
        self.start, self.compute, self.batch_size, self.patience = start, compute, batch_size, patience
        self.folders = {
            name: ModelFolder(path.absolute(), hashing.dvc_hash(path)) for name, path in model_folders.items()
        }
        self.parcels: dict[str, transfer.Parcel] = {}  # of the folders that a replica which starts lacks
        self.options = cluster.resources(compute)
        self.replicas: list[ReplicaHandle] = []
        self.failed_starts, self.late_reported = 0, False

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[str, Completion | Failure]]:
        return self._run("generate", requests, sampling)

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels | Failure]]:
        return self._run("label_probabilities", requests, labels)

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Likelihood | Failure]]:
        return self._run("answer_logprobs", requests)

    def close(self) -> None:
        """End the replicas at once; the next call starts new ones. The cluster stays connected."""
        for replica in self.replicas:
            replica.end()
        self.replicas.clear()
        Bar.note = ""

    def _run(self, operation: str, requests: Sequence[Request], *settings: Any) -> Iterator[tuple[str, Any]]:
        waiting = deque(windows(requests, self.compute.processes, self.batch_size))
        user_error: UserError | None = None
        try:
            while waiting or any(replica.window for replica in self.replicas):
                self._start(len(waiting))
                for replica in self.replicas:
                    if waiting and replica.ready and replica.window is None:
                        replica.compute(waiting.popleft(), operation, settings)
                for replica in self._wait():
                    try:
                        yield from self._receive(replica, waiting)
                    except UserError as error:
                        # Rows beside one that kills are still done. Nothing new begins.
                        waiting = deque(w for w in waiting if w.deaths and not user_error)
                        user_error = user_error or error
        except (cluster.HeadIsGone, ConnectionError):
            self.replicas.clear()  # to end them would wait for the head
            raise cluster.HeadIsGone(self.compute) from None
        except BaseException:
            # Answers that are still to come belong to no call any more.
            self.close()
            raise
        if user_error:
            raise user_error

    def _start(self, needed: int) -> None:
        """Make the replicas that are missing, for so many windows that wait."""
        busy = sum(replica.window is not None for replica in self.replicas)
        for _ in range(min(self.compute.processes, busy + needed) - len(self.replicas)):
            cluster.check_head(self.compute)
            self.replicas.append(ReplicaHandle(self.start, self.folders, self.parcels, self.options))

    def _wait(self) -> list[ReplicaHandle]:
        """The replicas whose call has ended, if any."""
        by_task = {replica.task: replica for replica in self.replicas if replica.task is not None}
        if not (ended := cluster.wait(list(by_task), self.compute)):
            self._check_late()
        return [by_task[task] for task in ended]

    def _receive(self, replica: ReplicaHandle, waiting: deque[Window]) -> list[tuple[str, Any]]:
        """The rows of a call that has ended. Those of a replica that died wait again, before all others."""
        try:
            rows = replica.receive()
        except ReplicaDied as death:
            self._remove(replica)
            if replica.window:
                waiting.extendleft(reversed(_retries(replica.window, str(death))))
            else:
                self._count_failed_start(str(death))
            return []
        except Exception:
            self._remove(replica)
            raise
        self.failed_starts *= not replica.ready
        if all(each.ready for each in self.replicas):
            self.parcels.clear()  # the object store is memory of the node
        self._show()
        return rows

    def _remove(self, replica: ReplicaHandle) -> None:
        replica.end()
        self.replicas.remove(replica)
        self._show()

    def _show(self) -> None:
        ready = sum(replica.ready for replica in self.replicas)
        Bar.note = f"{ready} replica{'s' * (ready != 1)}"

    def _count_failed_start(self, death: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= STARTS * self.compute.processes:
            raise UserError(
                f"{self.failed_starts} replicas of compute.processes died before they were ready, the last "
                f"one {death}; rerun with fewer processes, or with more memory per node"
            )
        _report(f"a replica {death}; a new one starts")

    def _check_late(self) -> None:
        """Report replicas that find no free cores. Raises UserError if there is no other one."""
        now = time.monotonic()
        late = [each for each in self.replicas if not each.host and now - each.created > self.patience]
        if not late:
            return
        needs = f"{self.options['num_cpus']:g} CPU and {self.options['num_gpus']:g} GPU"
        line = f"{len(late)} of {self.compute.processes} replicas found no node with {needs} free in"
        line += f" {self.patience:.0f} s"
        if len(late) == len(self.replicas):
            raise UserError(
                f"{line}; add nodes, end other work there, or lower compute.process_cores or "
                "compute.process_gpus"
            )
        if not self.late_reported:
            _report(f"{line}; the others go on")
            self.late_reported = True


def _retries(window: Window, death: str) -> list[Window]:
    """What is done again of the window of a replica that died. Raises UserError for a row that kills."""
    window.deaths += 1
    if not (retries := window.retries()):
        raise UserError(
            f"{window.requests[0].id}: {window.deaths} replicas of compute.processes died of this row, the "
            f"last one {death}; shorten or remove it"
        )
    _report(f"a replica {death}; rows to do again: {len(window.requests)}")
    return retries


def _report(line: str) -> None:
    print(f"replicas: {line}", file=sys.stderr, flush=True)
