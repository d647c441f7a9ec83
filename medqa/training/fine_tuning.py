"""What SFT and DPO share: trainer arguments, a guard against broken numbers, a step curve, a clean adapter."""

import json
import math
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medqa import chat, hub, jsonl, model, quantised
from medqa.runtime import distributed
from medqa.runtime.errors import UserError
from medqa.runtime.sections import TrainingParams
from medqa.training import checkpoints, lengths

JUMP = 100.0  # times the mean loss of the last steps: more is no bad batch, it is the end
STEPS_BEFORE = 10  # whose mean loss that is
LEAST_LOSS = 0.1  # a mean under this counts as this: a preference loss may come near 0, and up again
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments(params: TrainingParams, rows: int, dtype: str, seed: int, folder: Path) -> dict[str, Any]:
    """Trainer arguments for `rows` training rows; batch_size counts rows per optimiser step, over all
    processes.

    In bfloat16 the adapter's weights stay in float32, and its products are in bfloat16 as the base's are.
    Raises UserError for a batch that the processes cannot share.
    """
    at_once = params.micro_batch_size * distributed.world_size()
    if params.batch_size % at_once:
        raise UserError(
            f"batch_size = {params.batch_size} must be a multiple of micro_batch_size = {params.micro_batch_size} "
            f"times compute.processes = {distributed.world_size()}; lower micro_batch_size"
        )
    steps = math.ceil(rows / params.batch_size) * params.epochs
    return {
        "output_dir": str(folder),
        "num_train_epochs": params.epochs,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(params.warmup_share * steps),
        "per_device_train_batch_size": params.micro_batch_size,
        "gradient_accumulation_steps": params.batch_size // at_once,
        "max_length": params.max_length,
        "gradient_checkpointing": params.activation_checkpointing,
        "bf16": dtype == "bfloat16" and model.multiplies_bfloat16(model.device()),
        "ddp_find_unused_parameters": False,  # all of the adapter is used in every step
        "use_cpu": model.device() == "cpu",  # else several processes on a CPU would each train alone
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # its default hides a broken loss as 0.0 and trains on
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }


def on_one_gpu(args: Any) -> Any:
    """The same trainer arguments, for a process that trains on its own GPU alone.

    A trainer that sees several shares each batch among them (`torch.nn.DataParallel`), which TRL's DPO
    refuses.
    """
    args._n_gpu = min(args.n_gpu, 1)
    return args


def load(label: str, base: Path, dtype: str, params: TrainingParams, adapter: Path | None = None) -> Any:
    """The model to train, with the adapter to train on, if one is given; says once how its quantised layers
    train.

    Raises UserError for a model whose chat format or context cannot be trained with these parameters.
    """
    check_format(label, base, params.max_length)
    loaded = model.load(base, dtype, adapter, trainable=adapter is not None, dequantised=params.dequantised)
    if distributed.rank() == 0 and (layers := quantised.describe(loaded)):
        print(f"{label}: base: {layers}", file=sys.stderr, flush=True)
    return loaded


def check_format(label: str, base: Path, max_length: int) -> None:
    """Raise UserError if rows of `max_length` tokens exceed the context, or if no answer begins as it is
    asked for.
    """
    format = chat.read(base)
    if format.context and max_length > format.context:
        raise UserError(
            f"{label}.max_length = {max_length} is beyond the context of {base}, {format.context} tokens; lower it"
        )
    if not format.continues:
        raise UserError(
            f"{base}: the chat template asks for an answer in another way than it writes one ({format.turns!r}), so "
            "that training would not fit generation; choose another model"
        )


def step_logger(label: str) -> Any:
    """A trainer callback that shows a bar, keeps each step's numbers in `.rows`, and ends the run at a broken
    one.

    `.ids` are the rows of the step in progress.
    """
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Curve(TrainerCallback):
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []
            self.ids: list[str] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # A run that goes on from a checkpoint finds there what was logged before it.
            self.rows = [row for row in state.log_history if "loss" in row]
            self.bar = tqdm(
                total=state.max_steps,
                desc=label,
                unit="step",
                mininterval=1,
                initial=state.global_step,
                disable=distributed.rank() > 0,
            )

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ids.clear()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return
            # The trainer logs a step before it saves it: what ends here is never saved.
            if told := divergence(logs, [row["loss"] for row in self.rows]):
                raise divergence_error(state.global_step, told, self.ids)
            self.rows.append({"step": state.global_step, **logs})
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            self.bar.update()

    return Curve()


def divergence(logs: dict[str, float], losses: list[float]) -> str:
    """What is wrong with a step's numbers after the losses before it; empty if nothing is."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(logs.get(name, 0.0)):
            return f"{name} is {logs[name]}"
    before = losses[-STEPS_BEFORE:]
    usual = max(LEAST_LOSS, sum(map(abs, before)) / len(before)) if before else math.inf
    return f"loss is {logs['loss']:.4g}, it was {usual:.4g}" if logs["loss"] > JUMP * usual else ""


def divergence_error(step: int, told: str, ids: list[str]) -> UserError:
    """The error that ends a run at a step, with the rows of that step."""
    return UserError(
        f"step {step}: {told} (rows {lengths.named(ids)}); training ended, nothing of this step was saved; lower "
        "learning_rate, or look at these rows"
    )


def name_rows(trainer: Any, steps: Any) -> None:
    """Tell `steps` the ids of the rows that the trainer works on, and end the run at once where their loss
    breaks.
    """
    queue: deque[list[str]] = deque()
    collate, step = trainer.data_collator, trainer.training_step

    def collated(examples: list[dict[str, Any]]) -> Any:
        queue.append([example["id"] for example in examples])
        return collate([{name: value for name, value in row.items() if name != "id"} for row in examples])

    def stepped(*given: Any, **named: Any) -> Any:
        ids = queue.popleft()  # batches are trained on in the order in which they were put together
        steps.ids += ids
        loss = step(*given, **named)
        if not math.isfinite(loss):
            raise divergence_error(trainer.state.global_step + 1, f"loss is {float(loss)}", ids)
        return loss

    trainer._set_signature_columns_if_needed()
    trainer._signature_columns.append("id")  # else the trainer drops the column before it collates
    trainer.data_collator, trainer.training_step = collated, stepped


def run(trainer: Any, steps: Any, kept: Path, minutes: float) -> None:
    """Train, from the last checkpoint in `kept` if there is one, and keep one there each time `minutes` have
    passed.

    Of several processes only the main one returns: what follows, one alone may write.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(checkpoints.saver(kept, minutes))
    name_rows(trainer, steps)
    found = distributed.broadcast(checkpoints.last(kept) if distributed.rank() == 0 else None)
    try:
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    except KeyboardInterrupt:
        found = checkpoints.last(kept)
        told = f"the checkpoint of step {int(found.name[5:])}" if found else "no checkpoint"
        raise KeyboardInterrupt(f"{told} is kept; dvc repro goes on from there") from None
    if distributed.rank():
        sys.exit()


def write_curve(path: Path, rows: list[dict[str, float]], columns: dict[str, str]) -> None:
    """Write a TSV for `dvc plots`: the step, then the logged names of `columns` under the names it gives
    them.
    """
    with jsonl.atomic_write(path) as file:
        file.write("\t".join(["step", *columns.values()]) + "\n")
        for row in rows:
            file.write("\t".join([str(row["step"]), *(f"{row[name]:.6g}" for name in columns)]) + "\n")


def read_curve(path: Path) -> dict[str, list[float]]:
    """The columns of a step curve. Raises UserError if it holds no step."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise UserError(f"{path} holds no step; rerun the stage that writes it")
    columns = zip(*(map(float, line.split("\t")) for line in lines), strict=True)
    return {name: list(column) for name, column in zip(header.split("\t"), columns, strict=True)}


def tail_mean(values: Sequence[float]) -> float:
    """The mean over the last tenth of the steps, at least one."""
    tail = values[-max(1, len(values) // 10) :]
    return sum(tail) / len(tail)


def save_adapter(model: Any, base: Path, out: Path) -> None:
    """Save the adapter `default` and nothing else, the same bytes for the same weights on every machine."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        model.save_pretrained(folder, selected_adapters=["default"])
        path = Path(folder, "adapter_config.json")
        config = json.loads(path.read_text(encoding="utf-8"))
        # Peft keeps sets and the loaded path here: neither is the same in the next run or on the next
        # machine.
        for name in ("target_modules", "exclude_modules"):
            if isinstance(config.get(name), list):  # else a pattern, or none
                config[name] = sorted(config[name])
        config["base_model_name_or_path"], config["revision"] = hub.address(base)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        whole = Path(folder, "whole")
        whole.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.move(Path(folder, name), whole / name)
            checkpoints.sync(whole / name)
        checkpoints.sync(whole)
        shutil.rmtree(out, ignore_errors=True)
        whole.rename(out)
        checkpoints.sync(out.parent)
