"""A replica: the actor of a Ray cluster around the engine that computes rows, on a node that may be far away.

A node has the model's folders at the driver's paths (it is the driver's machine, or shares its disk), or in
its scratch folder from an earlier stage, or gets them through the object store. Content alone decides.
"""

import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medqa.engines.base import Engine, Request
from medqa.runtime import folders, hashing, transfer
from medqa.runtime.environment import out_of_memory, scratch_root, set_up
from medqa.runtime.errors import UserError

LIBRARIES = ("torch", "transformers", "gptqmodel")  # of the rows' keys


@dataclass(frozen=True)
class ModelFolder:
    """A folder of the driver's machine, and its hash (hashing.dvc_hash)."""

    path: Path
    content: str


@dataclass(frozen=True)
class Host:
    """Where a replica runs: the node's name, the process, and the versions of what rows depend on."""

    node: str
    process: int
    libraries: tuple[str, ...]


class Replica:
    """The work of the actor, through its method `call`: errors are answers, as not every one can be pickled.

    Calls before the first `compute`: for each model folder `has`, and `receive` if not; then `load`.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self.paths: dict[str, Path] = {}  # of the model folders on this node, by argument of the engine
        self.engine: Engine | None = None

    def call(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of this class, or the error that it raised."""
        try:
            return getattr(self, method)(*arguments)
        except UserError as error:
            return error
        except Exception as error:
            kind = MemoryError if out_of_memory(error) else RuntimeError
            return kind(f"in a replica of compute.processes:\n{traceback.format_exc()}")

    def describe(self) -> Host:
        """Where this replica runs."""
        import ray

        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        set_up()
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return Host(node, os.getpid(), libraries())

    def has(self, name: str, folder: ModelFolder) -> bool:
        """Whether the node has the folder, at the driver's path or from an earlier stage."""
        for path in (folder.path, _copy(folder.content)):
            if path.is_dir() and hashing.dvc_hash(path) == folder.content:
                self.paths[name] = path
                return True
        return False

    def receive(self, name: str, parcel: transfer.Parcel) -> None:
        """Write the folder to this node's disk, unless another replica has done so meanwhile."""
        from filelock import FileLock

        copy = _copy(parcel.content)
        copy.parent.mkdir(parents=True, exist_ok=True)
        # The system releases the lock however this process ends.
        with FileLock(copy.with_suffix(".lock")):
            if self.has(name, ModelFolder(copy, parcel.content)):
                return
            for rest in copy.parent.glob(f".{copy.name}.*"):  # of a replica that was killed here
                shutil.rmtree(rest, ignore_errors=True)
            with folders.atomic_folder(copy) as folder:
                transfer.unpack(parcel, folder)
        self.paths[name] = copy

    def load(self, start: Callable[..., Engine]) -> None:
        """Make the engine: `start` gets the paths of the model folders."""
        import torch

        torch.set_num_threads(self.threads)
        self.engine = start(**self.paths)

    def compute(self, operation: str, requests: Sequence[Request], *settings: Any) -> list[tuple[str, Any]]:
        """The results of an operation of the engine."""
        return list(getattr(self.engine, operation)(requests, *settings))


def libraries() -> tuple[str, ...]:
    """The versions of the libraries that compute rows, as in the rows' keys."""
    return tuple(f"{name} {version(name)}" for name in LIBRARIES)


def _copy(content: str) -> Path:
    """Where this node keeps a folder that was sent to it."""
    return scratch_root().absolute() / "models" / content.removesuffix(".dir")
