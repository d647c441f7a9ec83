"""Supervised fine-tuning: the stage against TRL's trainer, as it comes and a row at a time."""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench import runs
from bench.workloads import SEED, Workload, some
from medqa import curves, model, prompts, sft
from medqa.records import Example
from medqa.runtime import sections
from medqa.training import fine_tuning

UNIT = "rows"
ROWS = {"embedded": 384, "random": 16, "tiny": 8}
BATCH = 8  # rows an optimiser step, TRL's default, for all: as many steps, and the same rows in each epoch
RATE = 1e-3
EPOCHS = 1
PART = 8  # the plain loop trains on one in so many rows: on all of them it would take minutes
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


def contenders(load: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what gives a run over so many rows, from the files of the base to a saved adapter."""

    def prepared(train: Callable[..., list[float]], part: int = 1, **given: Any) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            examples = some(load.examples, rows // part)
            return lambda: (train(load, examples, BATCH, EPOCHS, **given), len(examples))[1]

        return prepare

    return {
        runs.FAST: prepared(ours),
        "without dequantising the base": prepared(ours, dequantised=False),
        PLAIN: prepared(theirs, PART, micro=1),
        DEFAULT: prepared(theirs),
        UNCHECKED: prepared(theirs, gradient_checkpointing=False),
    }


def ours(
    load: Workload, examples: Sequence[Example], batch: int, epochs: int, dequantised: bool = True
) -> list[float]:
    """The losses of the stage's steps."""
    params = sections.SftParams(**schedule(batch, epochs) | {"dequantised": dequantised}, lora=LORA)
    with aside() as folder:
        files = folder / "sft", folder / "curve"
        sft.train(fine_tuning.TrainingJob("sft", load.base, params, "float32", SEED, *files), examples)
        return curves.read_curve(folder / "curve")["loss"]


def theirs(
    load: Workload, examples: Sequence[Example], batch: int, epochs: int, micro: int = BATCH, **given: Any
) -> list[float]:
    """The losses of TRL's trainer on the quantised base, `micro` rows at once."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in examples
    ]
    with aside() as folder:
        trainer = SFTTrainer(
            model=model.load(load.base, "float32"),
            args=SFTConfig(**arguments(folder, batch, epochs, micro), **given),
            train_dataset=Dataset.from_list(rows),
            processing_class=model.tokenizer(load.base),
            peft_config=LoraConfig(
                r=LORA.r, lora_alpha=LORA.alpha, target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM"
            ),
        )
        return trained(trainer, folder)


def check(load: Workload) -> str:
    """That all contenders have the same losses to 1e-4 where all rows are in each step. AssertionError
    otherwise.
    """
    examples = some(load.examples, CHECKED[load.name])
    wanted = ours(load, examples, len(examples), 2)
    for told in (theirs(load, examples, len(examples), 2), theirs(load, examples, len(examples), 2, micro=1)):
        assert_near(wanted, told)
    return f"mean losses of {len(wanted)} steps on {len(examples)} rows the same to 1e-4"


def schedule(batch: int, epochs: int) -> dict[str, Any]:
    """The schedule of a stage of ours, as TRL's arguments below."""
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


def trained(trainer: Any, folder: Path) -> list[float]:
    """Train, save the adapter, and give the losses of the steps."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.save_pretrained(folder / "adapter")
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def assert_near(wanted: Sequence[float], told: Sequence[float]) -> None:
    """Raise AssertionError unless the losses are the same to 1e-4, and did move."""
    apart = max(abs(one - other) for one, other in zip(wanted, told, strict=True))
    assert apart < 1e-4, f"losses {list(wanted)} and {list(told)} are {apart:.1e} apart"
    assert not math.isclose(wanted[0], wanted[-1], abs_tol=1e-3), "the loss does not move: this shows nothing"


@contextmanager
def aside() -> Iterator[Path]:
    """A folder for what a run writes, nothing that an earlier run kept, and no progress bars."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(patch.dict(os.environ, MEDQA_CACHE=f"{folder}/cache"))
        yield Path(folder)
