"""What SFT and DPO share: the job, its model and trainer, the run, and a clean adapter."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medqa import chat, curves, hub, model, quantised
from medqa.runtime import distributed, tracking
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.sections import TrainingParams
from medqa.training import checkpoints, lengths, padding_free

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer, TrainingArguments

Params = TypeVar("Params", bound=TrainingParams)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class TrainingJob(Generic[Params]):
    """One run of training: the stage (`sft` or `dpo`), the base, the parameters and the outputs."""

    stage: str
    base: Path
    params: Params
    dtype: str
    seed: int
    out: Path  # the folder of the adapter
    curve: Path  # the file of the step curve
    checkpoint_minutes: float = math.inf  # of training between two checkpoints
    tracking: str | None = None  # the tracker that gets the curves too

    def fingerprint(self, rows: Sequence[Any], *adapters: Path) -> str:
        """The name of the run's checkpoints, from all that its result depends on."""
        settings = [self.params.model_dump(), self.dtype, self.seed]
        return checkpoints.fingerprint(settings, rows, [self.base, *adapters])


def arguments(job: TrainingJob, rows: int, folder: Path) -> dict[str, Any]:
    """Trainer arguments for `rows` training rows.

    batch_size counts rows per optimiser step, over all processes.
    In bfloat16 the adapter's weights stay in float32, and its products are in bfloat16 as the base's are.
    Raises UserError for a batch that the processes cannot share.
    """
    params, device = job.params, model.device()
    rows_per_pass = params.micro_batch_size * distributed.world_size()
    if params.batch_size % rows_per_pass:
        raise UserError(
            f"batch_size = {params.batch_size} must be a multiple of micro_batch_size = "
            f"{params.micro_batch_size} times compute.processes = {distributed.world_size()}; "
            "lower micro_batch_size"
        )
    steps = math.ceil(rows / params.batch_size) * params.epochs
    return {
        "output_dir": str(folder),
        "num_train_epochs": params.epochs,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(params.warmup_share * steps),
        "per_device_train_batch_size": params.micro_batch_size,
        "gradient_accumulation_steps": params.batch_size // rows_per_pass,
        "max_length": params.max_length,
        "gradient_checkpointing": params.activation_checkpointing,
        "bf16": job.dtype == "bfloat16" and model.multiplies_bfloat16(device),
        "ddp_find_unused_parameters": False,  # all of the adapter is used in every step
        "use_cpu": device == "cpu",  # else several processes on a CPU would each train alone
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # its default hides a loss of NaN as 0.0 and trains on
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": job.seed,
    } | tracking.arguments(job.tracking, job.out.name)


def on_one_gpu(args: "TrainingArguments") -> "TrainingArguments":
    """The same trainer arguments, for a process that trains on its own GPU alone.

    A trainer that sees several GPUs splits each batch among them (`torch.nn.DataParallel`), which TRL's DPO
    refuses.
    """
    args._n_gpu = min(args.n_gpu, 1)
    return args


def load(job: TrainingJob, adapter: Path | None = None) -> "PreTrainedModel | PeftModel":
    """The model to train, with the adapter to train further if any; prints how quantised layers train.

    Raises UserError for a model whose chat format or context cannot be trained with these parameters.
    """
    check_format(job.stage, job.base, job.params.max_length)
    loaded = model.load(
        job.base, job.dtype, adapter, trainable=adapter is not None, dequantised=job.params.dequantised
    )
    if distributed.rank() == 0 and (layers := quantised.describe(loaded)):
        print(f"{job.stage}: base: {layers}", file=sys.stderr, flush=True)
    return loaded


def check_format(stage: str, base: Path, max_length: int) -> None:
    """Raise UserError if `max_length` exceeds the context, or if answers begin differently in generation."""
    format = chat.read(base)
    if format.context and max_length > format.context:
        raise UserError(
            f"{stage}.max_length = {max_length} is beyond the context of {base}, {format.context} tokens; "
            "lower it"
        )
    if not format.continues:
        raise UserError(
            f"{base}: the chat template asks for an answer in another way than it writes one "
            f"({format.turns!r}), so that training would not fit generation; choose another model"
        )


def build(
    job: TrainingJob,
    kind: "type[Trainer]",
    config: "TrainingArguments",
    rows: list[dict[str, Any]],
    adapter: Path | None = None,
    **options: Any,
) -> "Trainer":
    """A padding-free trainer of TRL's class `kind`. Raises UserError if TRL does not train on all rows."""
    from datasets import Dataset

    trainer = kind(
        args=on_one_gpu(config),
        model=load(job, adapter),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer(job.base),
        **options,
    )
    lengths.check_trainer_rows(trainer, rows)
    padding_free.enable(trainer.model.get_base_model())
    return trainer


def run(job: TrainingJob, trainer: "Trainer", folder: Path, columns: dict[str, str]) -> None:
    """Train, with checkpoints in `folder` and from the latest one there; save adapter and step curve.

    `columns` are the logged numbers of the curve and their names there. Of several processes only rank 0
    returns: it alone writes. Raises UserError if training diverges; then nothing is saved.
    """
    from transformers import PrinterCallback

    from medqa.training.callbacks import CheckpointSaver, StepLogger

    logger = StepLogger(job.stage)
    logger.attach(trainer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(CheckpointSaver(folder, job.checkpoint_minutes))
    checkpoint = distributed.broadcast(checkpoints.latest(folder) if distributed.rank() == 0 else None)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        checkpoint = checkpoints.latest(folder)
        saved = f"the checkpoint of step {checkpoints.step_of(checkpoint)}" if checkpoint else "no checkpoint"
        raise KeyboardInterrupt(f"{saved} is kept; dvc repro goes on from there") from None
    if distributed.rank():
        sys.exit()
    save_adapter(trainer.model, job.base, job.out)
    curves.write_curve(job.curve, logger.rows, columns)


def save_adapter(peft_model: "PeftModel", base: Path, out: Path) -> None:
    """Save the adapter `default` and nothing else: the same weights give the same bytes on every machine."""
    with atomic_folder(out) as folder:
        peft_model.save_pretrained(folder, selected_adapters=["default"])
        for path in folder.iterdir():
            if path.name not in ADAPTER_FILES:
                path.unlink()
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        # Peft writes sets in any order and the path it loaded; both differ between runs and machines.
        for name in ("target_modules", "exclude_modules"):
            if isinstance(config.get(name), list):  # else a pattern, or none
                config[name] = sorted(config[name])
        config["base_model_name_or_path"], config["revision"] = hub.address(base)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
