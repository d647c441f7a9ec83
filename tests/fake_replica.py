"""Engines for the processes of `Workers`, which can only be loaded by name: the prompt says what they do."""

import os
import signal
import time
from pathlib import Path

from fake_engine import FakeEngine

from medqa.runtime.errors import UserError


def _says(prompt: str, seed: int) -> str:
    """Answer with the process and the seed.

    `die PATH` dies if it can take the file away, `always` in any case; `wait PATH` takes a minute.
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
    if word == "slow":
        time.sleep(float(argument))
    if word == "bug":
        raise ZeroDivisionError(argument)
    return f"{prompt} {seed} {os.getpid()}"


def load() -> FakeEngine:
    return FakeEngine(says=_says, fails=lambda prompt: prompt.startswith("large"))


def fail() -> FakeEngine:
    raise UserError("there is no model; make one")
