"""What SFT and DPO share: the job, its model and trainer, and each attempt to train."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medqa import chat, model, quantised
from medqa.runtime import cluster, distributed, measurements, tracking
from medqa.runtime.compute_section import ComputeParams
from medqa.runtime.errors import UserError
from medqa.runtime.sections import TrainingParams
from medqa.training import checkpoints, lengths, padding_free
from medqa.training.recorder import Recorder, Rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer, TrainingArguments

Params = TypeVar("Params", bound=TrainingParams)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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
    compute: ComputeParams | None = None  # with a cluster: the processes there that train

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.compute.processes if self.compute else 1

    def fingerprint(self, rows: Sequence[Any], *adapters: Path) -> str:
        """The name of the run's checkpoints, from all that its result depends on."""
        return checkpoints.fingerprint([self.seed, *self.settings()], rows, [self.base, *adapters])

    def settings(self, names: set[str] | None = None) -> list[Any]:
        """What results depend on besides seed, rows and models: these parameters or all, and how they run."""
        return [self.params.model_dump(include=names), self.dtype, self.processes, self._device()]

    def _device(self) -> str:
        """The kind of device that trains: each process has its own."""
        if self.compute is None or self.compute.cluster is None:
            return model.device().split(":")[0]
        if self.compute.cluster.startswith("ray://"):
            raise UserError(
                f"compute.cluster = {self.compute.cluster!r}: training starts inside the cluster; run the "
                "stage on one of its nodes with compute.cluster = auto, or by ray job submit"
            )
        cluster.connect(self.compute)
        return "cuda" if cluster.resources(self.compute)["num_gpus"] else "cpu"


@dataclass(frozen=True)
class Attempt:
    """What one process needs in an attempt to train: it may be interrupted, and the next one goes on."""

    folder: Path  # for the trainer's files
    checkpoint: Path | None  # to go on from
    recorder: Recorder


def arguments(job: TrainingJob, rows: int, folder: Path) -> dict[str, Any]:
    """Trainer arguments for `rows` training rows.

    batch_size counts rows per optimiser step, over all processes.
    In bfloat16 the adapter's weights stay in float32, and its products are in bfloat16 as the base's are.
    """
    params, device = job.params, model.device()
    rows_per_pass = params.micro_batch_size * distributed.world_size()
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
    """The model to train, with the adapter to train further if any; prints how quantised layers train."""
    loaded = model.load(
        job.base, job.dtype, adapter, trainable=adapter is not None, dequantised=job.params.dequantised
    )
    if distributed.rank() == 0 and (layers := quantised.describe(loaded)):
        print(f"{job.stage}: base: {layers}", file=sys.stderr, flush=True)
    return loaded


def check_batch(job: TrainingJob) -> None:
    """Raise UserError for a batch that the processes cannot share."""
    params = job.params
    if params.batch_size % (params.micro_batch_size * job.processes):
        raise UserError(
            f"batch_size = {params.batch_size} must be a multiple of micro_batch_size = "
            f"{params.micro_batch_size} times compute.processes = {job.processes}; lower micro_batch_size"
        )


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


def run(job: TrainingJob, trainer: "Trainer", attempt: Attempt) -> None:
    """Train from the attempt's checkpoint on, with a new one whenever so many minutes have passed.

    Rank 0 reports steps, checkpoints and the adapter to the recorder. Raises UserError if training diverges.
    """
    from transformers import PrinterCallback

    from medqa.training.callbacks import CheckpointSaver, StepLogger

    logger = StepLogger(attempt.recorder)
    logger.attach(trainer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(CheckpointSaver(attempt.recorder, job.checkpoint_minutes))
    trainer.train(resume_from_checkpoint=str(attempt.checkpoint) if attempt.checkpoint else None)
    if distributed.rank() == 0:
        adapter = attempt.folder / "adapter"
        trainer.model.save_pretrained(adapter, selected_adapters=["default"])
        attempt.recorder.finish(adapter, logger.rows, measurements.usage())


def train(
    job: TrainingJob[Params],
    fit: Callable[..., None],
    rows: Sequence[Any],
    columns: dict[str, str],
    adapters: Sequence[Path] = (),
    cache: Callable[[Rows], None] | None = None,
) -> None:
    """Train by `fit(job, rows, attempt, *adapters)`, here or on the job's cluster, and write the outputs.

    An interrupted run goes on from its latest checkpoint. `columns` are the logged numbers of the step curve
    and their names there. Raises UserError if the job cannot be trained; then nothing is written.
    """
    check_batch(job)
    check_format(job.stage, job.base, job.params.max_length)
    with checkpoints.checkpoint_folder(job.fingerprint(rows, *adapters)) as folder:
        recorder = Recorder(job.stage, job.base, folder, job.out, job.curve, columns, cache)
        try:
            if job.compute and job.compute.cluster:
                from medqa.training import cluster_training

                cluster_training.train(job, fit, rows, adapters, recorder)
            else:
                work = folder / "work"
                fit(job, rows, Attempt(work, checkpoints.latest(folder), recorder), *adapters)
        except KeyboardInterrupt:
            saved = "no checkpoint"
            if checkpoint := checkpoints.latest(folder):
                saved = f"the checkpoint of step {checkpoints.step_of(checkpoint)}"
            raise KeyboardInterrupt(f"{saved} is kept; dvc repro goes on from there") from None
