"""Engines for the processes of `Workers`, which can only be loaded by name: what they do stands in what is
asked.
"""

import os
import signal
import time
from pathlib import Path

from fake_engine import FakeEngine

from medqa.engines import RowError
from medqa.runtime.errors import UserError


def _says(asked: str, seed: int) -> str:
    """Answers with its process and the seed. `die PATH`: dies if it can take the file away; `wait`: takes a
    minute.
    """
    word, _, told = asked.partition(" ")
    if word == "die" and Path(told).exists():
        Path(told).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "wait":
        Path(told).write_text(str(os.getpid()))
        time.sleep(60)
    if word == "slow":
        time.sleep(float(told))
    if word == "bug":
        raise ZeroDivisionError(told)
    return f"{asked} {seed} {os.getpid()}"


class Faulty(FakeEngine):
    def generate(self, asked, sampling, seeds):
        for place, messages in enumerate(asked):
            if messages[-1]["content"].startswith("large"):
                raise RowError(place, "does not fit")
        return super().generate(asked, sampling, seeds)


def load() -> Faulty:
    return Faulty(says=_says)


def fail() -> Faulty:
    raise UserError("there is no model; make one")
