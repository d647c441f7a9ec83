"""The driver's side of a replica: its actor, the steps of its start, and the call that it works on."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any

from medqa.engines.base import Engine
from medqa.engines.replica import Host, ModelFolder, Replica, libraries
from medqa.engines.windows import Window
from medqa.runtime import cluster, transfer
from medqa.runtime.errors import UserError


class ReplicaDied(Exception):
    """The replica is no more; the text says on which node and why."""


class ReplicaHandle:
    """A replica that starts, is idle, or computes a window.

    `start` makes its engine of the paths of the model folders on its node. `parcels` are those folders that
    are in the object store, which all replicas share; `options` are its actor's, for Ray. `task` is the call
    in work (an ObjectRef), None if it is idle; `host` is None until it has found free cores.
    """

    def __init__(
        self,
        start: Callable[..., Engine],
        folders: Mapping[str, ModelFolder],
        parcels: dict[str, transfer.Parcel],
        options: Mapping[str, float],
    ):
        import ray

        self.created = time.monotonic()
        self.host: Host | None = None
        self.ready = False
        self.window: Window | None = None
        self.actor: Any = ray.remote(Replica).options(**options).remote(max(1, int(options["num_cpus"])))
        self.steps = self._steps(start, folders, parcels)
        self.task: Any = next(self.steps)

    def _steps(
        self,
        start: Callable[..., Engine],
        folders: Mapping[str, ModelFolder],
        parcels: dict[str, transfer.Parcel],
    ) -> Generator[Any, Any, None]:
        """The calls that make it ready. Each is made when the answer of the one before is there."""
        call = self.actor.call.remote
        self.host = yield call("describe")
        _check_libraries(self.host)
        for name, folder in folders.items():
            if not (yield call("has", name, folder)):
                parcels[name] = parcels.get(name) or transfer.pack(folder.path)
                yield call("receive", name, parcels[name])
        yield call("load", start)
        self.ready = True

    def compute(self, window: Window, operation: str, settings: tuple[Any, ...]) -> None:
        """Begin to compute a window."""
        self.window = window
        self.task = self.actor.call.remote("compute", operation, window.requests, *settings)

    def receive(self) -> list[tuple[str, Any]]:
        """The rows of the call, which has ended; none of a step of the start: the next one begins.

        Raises ReplicaDied (the window stays its window then), or what the replica raised.
        """
        import ray
        from ray import exceptions as lost

        task, self.task = self.task, None
        try:
            answer = ray.get(task)
        except (
            lost.RayActorError,
            lost.NodeDiedError,
            lost.ObjectLostError,
            lost.OutOfMemoryError,  # Ray has killed it
        ) as error:
            where = f"on node {self.host.node} (process {self.host.process}) " if self.host else ""
            raise ReplicaDied(f"{where}died: {cluster.cause(error)}") from None
        window, self.window = self.window, None
        if isinstance(answer, Exception):
            raise answer
        if window:
            return answer
        with suppress(StopIteration):
            self.task = self.steps.send(answer)
        return []

    def end(self) -> None:
        """End its process at once."""
        import ray

        ray.kill(self.actor)


def _check_libraries(host: Host) -> None:
    for here, there in zip(libraries(), host.libraries, strict=True):
        if here != there:
            raise UserError(
                f"node {host.node} has {there}, the driver {here}; install the versions of constraints.txt "
                "on both"
            )
