"""What `medqa ask` and `medqa chat` share: the options of an answer, and an answer on the screen."""

import argparse
import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medqa.runtime.environment import set_up
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params

if TYPE_CHECKING:
    from medqa.engines import Completion, Sampling
    from medqa.engines.transformers_engine import TransformersEngine
    from medqa.prompts import Messages

NOTICE = "Not for clinical use: this is a research model, and what it says may be wrong."
POLICIES = ("base", "sft", "dpo")
MODELS = Path("models")


@dataclass(frozen=True)
class Settings:
    """How answers are written."""

    params: Params
    sampling: "Sampling"
    seed: int


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The options of an answer."""
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0, the default, gives one answer, always"
    )
    parser.add_argument(
        "--seed", type=int, help="of a temperature above 0; the default is `seed` of params.yaml"
    )


def read_settings(options: argparse.Namespace) -> Settings:
    """The parameters of the run with the options. Raises UserError for a temperature that is none."""
    if not 0 <= options.temperature <= 5 or math.isnan(options.temperature):
        raise UserError(f"--temperature {options.temperature:g} must be from 0 to 5")
    params = read_params()
    set_up()
    os.environ["TQDM_DISABLE"] = "1"  # no bars for a handful of rows
    from medqa.engines import Sampling

    sampling = Sampling(options.temperature, params.generate.top_p, params.evaluate.max_new_tokens)
    return Settings(params, sampling, params.seed if options.seed is None else options.seed)


def warn() -> None:
    """Say once that answers are not for clinical use."""
    print(NOTICE, file=sys.stderr, flush=True)


@contextmanager
def load(name: str, settings: Settings) -> Iterator["TransformersEngine"]:
    """The engine of a policy. Raises UserError without a finished run."""
    from medqa import policies

    with redirect_stdout(io.StringIO()):  # gptqmodel prints an empty line, now or later
        engine = policies.load(name, settings.params, MODELS)
    try:
        yield engine
    finally:
        engine.close()


def write_answer(
    engine: "TransformersEngine", messages: "Messages", settings: Settings, sample: int = 0
) -> "Completion":
    """Print the answer to messages word by word, and say where the token limit cut it off."""
    from medqa import streaming
    from medqa.engines import sample_seed

    seed = sample_seed(settings.seed, messages[-1]["content"], sample)
    completion = streaming.stream(engine, messages, settings.sampling, _show, seed)
    print(flush=True)
    if completion.finish_reason == "length":
        limit = f"evaluate.max_new_tokens = {settings.sampling.max_new_tokens} in params.yaml"
        print(f"(cut off by {limit})", file=sys.stderr, flush=True)
    return completion


def _show(part: str) -> None:
    print(part, end="", flush=True)
