"""A replica: the actor of a Ray cluster around the engine that computes rows, on a node that may be far away.

A node has the model's folders at the driver's paths (it is the driver's machine, or shares its disk), or in
its scratch folder from an earlier stage, or they are sent to it in chunks. Content alone decides.
"""

import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medqa.engines.base import Engine, Request
from medqa.runtime import folders, hashing
from medqa.runtime.environment import out_of_memory, scratch_root, set_up
from medqa.runtime.errors import UserError

CHUNK = 16 << 20  # bytes of a file that are in the object store at once
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

    Calls before the first `compute`: for each model folder `lacks`; if so, `write` for each chunk, and
    `finish`; then `load`.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self.paths: dict[str, Path] = {}  # of the model folders on this node, by argument of the engine
        self.engine: Engine | None = None
        self.arrival = ExitStack()  # of the folder that is being sent
        self.arriving = Path()

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

    def lacks(self, name: str, folder: ModelFolder) -> bool:
        """Whether the node has the folder nowhere. It waits while another replica of the node receives it."""
        from filelock import FileLock

        copy = scratch_root().absolute() / "models" / folder.content.removesuffix(".dir")
        copy.parent.mkdir(parents=True, exist_ok=True)
        # The system releases the lock however this process ends.
        self.arrival.enter_context(FileLock(copy.with_suffix(".lock")))
        for path in (folder.path, copy):
            if path.is_dir() and hashing.dvc_hash(path) == folder.content:
                self.paths[name] = path
                self.arrival.close()
                return False
        for rest in copy.parent.glob(f".{copy.name}.*"):  # of a replica that was killed here
            shutil.rmtree(rest, ignore_errors=True)
        self.paths[name] = copy
        self.arriving = self.arrival.enter_context(folders.atomic_folder(copy))
        return True

    def write(self, file: str, chunk: bytes) -> None:
        """Append a chunk to a file of the folder that is being sent."""
        path = self.arriving / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(chunk)

    def finish(self) -> None:
        """The folder is whole: give it its name."""
        self.arrival.close()

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


def chunks(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a folder in chunks: the name below it, and up to CHUNK bytes; an empty file has one."""
    for path in sorted(hashing.files(folder)):
        with path.open("rb") as stream:
            name, chunk = path.relative_to(folder).as_posix(), stream.read(CHUNK)
            yield name, chunk
            while chunk := stream.read(CHUNK):
                yield name, chunk
