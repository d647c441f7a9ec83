"""Supervised fine-tuning: the stage against TRL's trainer, with its defaults and with one row at a time."""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from bench import peers, runs
from bench.workloads import SEED, Workload, take
from medqa import curves, model, sft
from medqa.records import Example
from medqa.runtime import sections
from medqa.training.fine_tuning import TrainingJob

if TYPE_CHECKING:
    from transformers import Trainer

UNIT = "rows"
ROWS = {"embedded": 384, "random": 16, "tiny": 8}
BATCH = 8  # rows per optimiser step, TRL's default, for all contenders: equally many steps on the same rows
RATE = 1e-3
PART = 8  # the plain loop trains on one in so many rows: all rows would take minutes
CHECKED = {"embedded": 32, "random": 8, "tiny": 8}
LORA = sections.Lora(r=16, alpha=32, dropout=0.0)
DEFAULT, PLAIN, UNCHECKED = "TRL's default", "plain loop", "TRL without checkpointing"
TARGETS = {DEFAULT: 1.25, UNCHECKED: 1.2}
# What TRL's own defaults leave open. Its bfloat16 is off: this is a comparison in float32.
SCHEDULE = {
    "learning_rate": RATE,
    "lr_scheduler_type": "cosine",
    "bf16": False,
    "seed": SEED,
    "max_length": 1024,
}
QUIET = {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}

Train = Callable[
    ..., list[float]
]  # of a workload, rows, a batch size and epochs; gives the losses of the steps


def contenders(workload: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what prepares a run over so many rows, from the files of the base to a saved adapter."""

    def prepared(train: Train, part: int = 1, **options: Any) -> Callable[[int], runs.Run]:
        return training_run(train, workload, workload.examples, 1, part, **options)

    return {
        runs.OURS: prepared(ours),
        "without dequantising the base": prepared(ours, dequantised=False),
        PLAIN: prepared(theirs, PART, micro=1),
        DEFAULT: prepared(theirs),
        UNCHECKED: prepared(theirs, gradient_checkpointing=False),
    }


def training_run(
    train: Train, workload: Workload, rows: Sequence[Any], epochs: int, part: int = 1, **options: Any
) -> Callable[[int], runs.Run]:
    """What prepares a run that trains on one in `part` of so many rows and returns the rows times epochs."""

    def prepare(count: int) -> runs.Run:
        selection = take(rows, count // part)

        def run() -> float:
            train(workload, selection, BATCH, epochs, **options)
            return len(selection) * epochs

        return run

    return prepare


def ours(
    workload: Workload, examples: Sequence[Example], batch: int, epochs: int, dequantised: bool = True
) -> list[float]:
    """The losses of the stage's steps."""
    params = sections.SftParams(**schedule(batch, epochs) | {"dequantised": dequantised}, lora=LORA)
    with scratch_folder() as folder:
        paths = folder / "sft", folder / "curve"
        sft.train(TrainingJob("sft", workload.base, params, "float32", SEED, *paths), examples)
        return curves.read_curve(folder / "curve")["loss"]


def theirs(
    workload: Workload,
    examples: Sequence[Example],
    batch: int,
    epochs: int,
    micro: int = BATCH,
    **options: Any,
) -> list[float]:
    """The losses of TRL's trainer on the quantised base, `micro` rows at once."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    with scratch_folder() as folder:
        trainer = SFTTrainer(
            model=model.load(workload.base, "float32"),
            args=SFTConfig(**arguments(folder, batch, epochs, micro), **options),
            train_dataset=Dataset.from_list(peers.sft_rows(examples)),
            processing_class=model.tokenizer(workload.base),
            peft_config=peers.lora_config(LORA.r, LORA.alpha),
        )
        return train(trainer, folder)


def check(workload: Workload) -> str:
    """Check that all contenders have the same losses to 1e-4. Raises AssertionError if they do not."""
    examples = take(workload.examples, CHECKED[workload.name])
    steps = check_losses(ours, theirs, workload, examples)
    return f"mean losses of {steps} steps on {len(examples)} rows the same to 1e-4"


def check_losses(ours: Train, theirs: Train, workload: Workload, rows: Sequence[Any]) -> int:
    """Compare the losses of two epochs with all rows in each step; the number of steps."""
    expected = ours(workload, rows, len(rows), 2)
    assert_near(expected, theirs(workload, rows, len(rows), 2))
    assert_near(expected, theirs(workload, rows, len(rows), 2, micro=1))
    return len(expected)


def schedule(batch: int, epochs: int) -> dict[str, Any]:
    """The schedule of our stages, equal to TRL's arguments below."""
    return {
        "epochs": epochs,
        "learning_rate": RATE,
        "batch_size": batch,
        "micro_batch_size": BATCH,
        "max_length": SCHEDULE["max_length"],
        "warmup_share": 0.0,
        "activation_checkpointing": False,
        "dequantised": True,
    }


def arguments(folder: Path, batch: int, epochs: int, micro: int) -> dict[str, Any]:
    """TRL's arguments: its defaults but for the schedule, which has to be the same for all."""
    sizes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // micro}
    return {"output_dir": str(folder), "num_train_epochs": epochs, **sizes, **SCHEDULE, **QUIET}


def train(trainer: "Trainer", folder: Path) -> list[float]:
    """Train and save the adapter; the losses of the steps."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.save_pretrained(folder / "adapter")
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def assert_near(expected: Sequence[float], losses: Sequence[float]) -> None:
    """Raise AssertionError unless the losses are the same to 1e-4 and change over the steps."""
    difference = max(abs(left - right) for left, right in zip(expected, losses, strict=True))
    assert difference < 1e-4, f"losses {list(expected)} and {list(losses)} are {difference:.1e} apart"
    moves = not math.isclose(expected[0], expected[-1], abs_tol=1e-3)
    assert moves, "the loss does not move: this shows nothing"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the outputs and the cache of one run, without progress bars."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(patch.dict(os.environ, MEDQA_CACHE=f"{folder}/cache"))
        yield Path(folder)
