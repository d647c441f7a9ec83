"""An engine whose rows replicas compute: actors of a Ray cluster, on this machine or on many.

The driver keeps the order, the row cache and the files. A replica gets a window of rows at a time, and its
rows come back when the window is done.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medqa.engines.base import Completion, Engine, Failure, Labels, Likelihood, Request, Sampling
from medqa.engines.replica import Host, ModelFolder, Replica, chunks, libraries
from medqa.engines.windows import Window, windows
from medqa.runtime import cluster, hashing
from medqa.runtime.compute_section import ComputeParams
from medqa.runtime.errors import UserError
from medqa.runtime.progress import Bar

POLL = 1.0  # seconds between two looks at what is late
PATIENCE = 120.0  # seconds in which a replica has to find free cores, or the stage another one
STARTS = 3  # per replica: so often they may die before they are ready


@dataclass(eq=False)
class Handle:
    """The driver's side of a replica: its actor, and the call that it works on."""

    actor: Any
    created: float
    steps: Generator[Any, Any, None] = field(init=False)  # of its start
    task: Any = None
    host: Host | None = None  # once it has found free cores
    ready: bool = False
    window: Window | None = None


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
        self.handles: list[Handle] = []
        self.resources = cluster.resources(compute)
        self.failed_starts, self.reported = 0, False

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
        import ray

        for handle in self.handles:
            ray.kill(handle.actor)
        self.handles.clear()
        Bar.note = ""

    def _run(self, operation: str, requests: Sequence[Request], *settings: Any) -> Iterator[tuple[str, Any]]:
        waiting = deque(windows(requests, self.compute.processes, self.batch_size))
        user_error: UserError | None = None
        try:
            while waiting or any(handle.window for handle in self.handles):
                self._start(len(waiting))
                self._hand_out(waiting, operation, settings)
                for handle in self._wait():
                    try:
                        yield from self._receive(handle, waiting)
                    except UserError as error:
                        # Rows beside one that kills are done. Nothing new begins.
                        waiting = deque(w for w in waiting if w.deaths and not user_error)
                        user_error = user_error or error
        except ConnectionError:
            raise cluster.head_is_gone(self.compute) from None
        except BaseException:
            # Answers that are still to come belong to no call any more.
            self.close()
            raise
        if user_error:
            raise user_error

    def _start(self, needed: int) -> None:
        """Make the replicas that are missing, for so many windows that wait."""
        import ray

        busy = sum(handle.window is not None for handle in self.handles)
        for _ in range(min(self.compute.processes, busy + needed) - len(self.handles)):
            cluster.check_head(self.compute)  # without one the next line waits a minute, and ends Python
            threads = max(1, int(self.resources["num_cpus"]))
            actor = ray.remote(Replica).options(**self.resources).remote(threads)
            handle = Handle(actor, time.monotonic())
            handle.steps = self._steps(handle)
            handle.task = next(handle.steps)
            self.handles.append(handle)

    def _steps(self, handle: Handle) -> Generator[Any, Any, None]:
        """The calls that make a replica ready, one after the other; each is sent the answer of the last."""
        call = handle.actor.call.remote
        handle.host = yield call("describe")
        _check_libraries(handle.host)
        for name, folder in self.folders.items():
            lacks = yield call("lacks", name, folder)
            if lacks:
                for file, chunk in chunks(folder.path):
                    yield call("write", file, chunk)
                yield call("finish")
        yield call("load", self.start)
        handle.ready, self.failed_starts = True, 0
        self._count()

    def _hand_out(self, waiting: deque[Window], operation: str, settings: tuple[Any, ...]) -> None:
        for handle in self.handles:
            if waiting and handle.ready and handle.window is None:
                handle.window = waiting.popleft()
                handle.task = handle.actor.call.remote(
                    "compute", operation, handle.window.requests, *settings
                )

    def _wait(self) -> list[Handle]:
        """The replicas whose call has ended, after POLL seconds at most."""
        import ray

        handles = {handle.task: handle for handle in self.handles if handle.task is not None}
        ended, _ = ray.wait(list(handles), timeout=POLL)
        if not ended:
            cluster.check_head(self.compute)
            self._check_late()
        return [handles[task] for task in ended]

    def _receive(self, handle: Handle, waiting: deque[Window]) -> list[tuple[str, Any]]:
        """The rows of a call that has ended, if it was for rows. Raises what the replica raised."""
        import ray
        from ray import exceptions

        window, task = handle.window, handle.task
        handle.window = handle.task = None
        try:
            answer = ray.get(task)
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError) as error:
            self._remove(handle)
            self._report_death(handle, window, _cause(error))
            waiting.extendleft(reversed(window.retries() if window else []))
            return []
        try:
            if isinstance(answer, Exception):
                raise answer
            if window:
                return answer
            handle.task = next(handle.steps, None) if answer is None else handle.steps.send(answer)
        except Exception:
            self._remove(handle)
            raise
        return []

    def _remove(self, handle: Handle) -> None:
        import ray

        ray.kill(handle.actor)
        self.handles.remove(handle)
        self._count()

    def _count(self) -> None:
        ready = sum(handle.ready for handle in self.handles)
        Bar.note = f"{ready} replica{'s' * (ready != 1)}"

    def _report_death(self, handle: Handle, window: Window | None, cause: str) -> None:
        where = f" on node {handle.host.node} (process {handle.host.process})" if handle.host else ""
        if window is None:
            self.failed_starts += 1
            task = "a new one starts"
            if self.failed_starts >= STARTS * self.compute.processes:
                raise UserError(
                    f"{self.failed_starts} replicas of compute.processes died before they were ready, the "
                    f"last one{where}: {cause}; rerun with fewer processes, or with more memory per node"
                )
        else:
            window.deaths += 1
            rows = len(window.requests)
            if not window.retries():
                raise UserError(
                    f"{window.requests[0].id}: {window.deaths} replicas of compute.processes died of this row, "
                    f"the last one{where}: {cause}; shorten or remove it"
                )
            task = f"its {rows} row{'s' * (rows != 1)} are done again"
        print(f"replicas: the replica{where} died: {cause}; {task}", file=sys.stderr, flush=True)

    def _check_late(self) -> None:
        """Report replicas that find no free cores. Raises UserError if there is no other one."""
        now = time.monotonic()
        late = [h for h in self.handles if h.host is None and now - h.created > self.patience]
        if not late:
            return
        needs = f"{self.resources['num_cpus']:g} CPU and {self.resources['num_gpus']:g} GPU"
        count = f"{len(late)} of {self.compute.processes} replicas"
        if len(late) == len(self.handles):
            raise UserError(
                f"{count} found no node with {needs} free in {self.patience:.0f} s; add nodes, end other "
                "work there, or lower compute.process_cores or compute.process_gpus"
            )
        if not self.reported:
            line = f"{count} found no node with {needs} free in {self.patience:.0f} s; the others go on"
            print(f"replicas: {line}", file=sys.stderr, flush=True)
            self.reported = True


def _check_libraries(host: Host) -> None:
    for here, there in zip(libraries(), host.libraries, strict=True):
        if here != there:
            raise UserError(
                f"node {host.node} has {there}, the driver {here}; install the versions of constraints.txt "
                "on both"
            )


def _cause(error: Exception) -> str:
    """Why a replica died, from the text of Ray's error."""
    text = str(error).lower()
    if "node" in text and ("node has died" in text or "node was terminated" in text):
        return "its node is gone"
    if "low on memory" in text:
        return "its node ran low on memory"
    return "its process was killed (which the system does when memory runs out) or crashed"
