"""Engines for replicas, which can only be loaded by name: the prompt says what they do."""

import os
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine

from medqa.engines import Engine, Request
from medqa.runtime.errors import UserError


def _says(prompt: str, seed: int, folder: Path | None = None) -> str:
    """Answer with the process and the seed.

    `die PATH` dies if it can take the file away, `hog PATH` takes memory until it dies, `always` dies in any
    case; `wait PATH` takes a minute; `note PATH` appends the prompt to the file; `folder` answers with the
    path of the model folder and its files.
    """
    word, _, argument = prompt.partition(" ")
    if word == "die" and Path(argument).exists():
        Path(argument).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "wait":
        Path(argument).write_text(str(os.getpid()))
        time.sleep(60)
    if word == "note":
        with Path(argument.split()[0]).open("a") as file:
            file.write(f"{prompt}\n")
        time.sleep(0.05)
    if word == "hog" and Path(argument).exists():
        Path(argument).unlink()
        blocks = []
        for _ in range(128):
            blocks.append(b"." * (64 << 20))
            time.sleep(0.05)
    if word == "slow":
        time.sleep(float(argument))
    if word == "bug":
        raise ZeroDivisionError(argument)
    if word == "folder":
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return " ".join(map(str, [folder, *(path.relative_to(folder) for path in files)]))
    return f"{prompt} {seed} {os.getpid()}"


def load(folder: Path | None = None) -> FakeEngine:
    return FakeEngine(says=partial(_says, folder=folder), fails=lambda prompt: prompt.startswith("large"))


def fail() -> FakeEngine:
    raise UserError("there is no model; make one")


def die() -> FakeEngine:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Limited:
    """Makes a real engine, in a process that gets so many megabytes more than it has with the model."""

    megabytes: int
    batch_size: int
    report: Path  # the file that gets the number by which batches were divided

    def __call__(self, model_dir: Path) -> Engine:
        from medqa.engines.loading import load_transformers

        engine = load_transformers(model_dir, None, "float32", self.batch_size)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self.megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return _Reporting(engine, self.report)


class _Reporting(FakeEngine):
    """The labels of a real engine; after each call it reports by how much the batches were divided."""

    def __init__(self, engine: Any, report: Path):
        self.engine, self.report = engine, report

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Any]]:
        yield from self.engine.label_probabilities(requests, labels)
        self.report.write_text(str(self.engine.divisor))
