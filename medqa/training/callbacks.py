"""What happens between training steps: a log of each step, a stop if training diverges, a checkpoint."""

import math
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from medqa.runtime import distributed, transfer
from medqa.runtime.errors import UserError
from medqa.training.lengths import list_ids
from medqa.training.recorder import Recorder

MAX_LOSS_RATIO = 100.0  # of a loss to the recent mean: above it, training has diverged
RECENT_STEPS = 10
MIN_RECENT_LOSS = 0.1  # a recent mean below counts as this: a preference loss may come near 0, and rise again


class StepLogger(TrainerCallback):
    """Reports each step, collects its numbers in `rows`, and stops a run that diverges."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.rows: list[dict[str, float]] = []
        self.ids: list[str] = []  # of the rows of the step in progress

    def attach(self, trainer: Trainer) -> None:
        """Note the row ids of each micro-batch, and raise UserError at once where its loss is not finite."""
        batches: deque[list[str]] = deque()
        collate, training_step = trainer.data_collator, trainer.training_step

        def collate_and_note(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batches.append([example["id"] for example in examples])
            return collate([{name: value for name, value in row.items() if name != "id"} for row in examples])

        def checked_step(*args: Any, **kwargs: Any) -> Any:
            ids = batches.popleft()  # batches are trained on in the order of their collation
            self.ids += ids
            loss = training_step(*args, **kwargs)
            if not math.isfinite(loss):
                raise divergence_error(trainer.state.global_step + 1, f"loss is {float(loss)}", ids)
            return loss

        trainer.add_callback(self)
        trainer._set_signature_columns_if_needed()
        trainer._signature_columns.append("id")  # else the trainer drops the column before it collates
        trainer.data_collator, trainer.training_step = collate_and_note, checked_step

    def on_train_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        # A run that resumes from a checkpoint finds there what was logged before it.
        self.rows = [row for row in state.log_history if "loss" in row]
        if distributed.rank() == 0:
            self.recorder.begin(state.max_steps, state.global_step)

    def on_train_end(self, *_: object, **__: object) -> None:
        if distributed.rank() == 0:
            self.recorder.end()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.ids.clear()

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: dict[str, float], **_: object
    ) -> None:
        if "loss" not in logs:
            return
        # The trainer logs a step before it saves it: a checkpoint never holds a step that fails here.
        if reason := divergence(logs, [row["loss"] for row in self.rows]):
            raise divergence_error(state.global_step, reason, self.ids)
        self.rows.append({"step": state.global_step, **logs})
        if distributed.rank() == 0:
            self.recorder.step(f"loss={logs['loss']:.3f}")


class CheckpointSaver(TrainerCallback):
    """Reports a checkpoint whenever so many minutes of training have passed."""

    def __init__(self, recorder: Recorder, minutes: float) -> None:
        self.recorder, self.minutes = recorder, minutes

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.last_save = time.monotonic()

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        due = distributed.broadcast(time.monotonic() - self.last_save >= 60 * self.minutes)
        # After the last step the adapter itself is saved.
        control.should_save = due and state.global_step < state.max_steps

    def on_save(self, args: TrainingArguments, state: TrainerState, control: object, **_: object) -> None:
        written = Path(args.output_dir, f"checkpoint-{state.global_step}")
        # Each process has written its random state, on whatever machine it is.
        states = distributed.gather([*transfer.chunks(written)] if distributed.rank() else [])
        if distributed.rank() == 0:
            transfer.write(states, written)
            self.recorder.store_checkpoint(written, state.global_step)
        else:
            shutil.rmtree(written)
        self.last_save = time.monotonic()


def divergence(logs: dict[str, float], losses: list[float]) -> str:
    """How a step's numbers show that training has diverged, given the losses before it; empty if they do not.

    That is a loss or a gradient norm that is not finite, or a loss of over 100 times its recent mean.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(logs.get(name, 0.0)):
            return f"{name} is {logs[name]}"
    recent = losses[-RECENT_STEPS:]
    mean = max(MIN_RECENT_LOSS, sum(map(abs, recent)) / len(recent)) if recent else math.inf
    return f"loss is {logs['loss']:.4g}, it was {mean:.4g}" if logs["loss"] > MAX_LOSS_RATIO * mean else ""


def divergence_error(step: int, reason: str, ids: list[str]) -> UserError:
    """The error that stops training at a step, with the rows of that step."""
    return UserError(
        f"step {step}: {reason} (rows {list_ids(ids)}); training ended, nothing of this step was saved; "
        "lower learning_rate, or look at these rows"
    )
