"""Preference optimisation: the stage against TRL's trainer, with its defaults and with one pair at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from bench import peers, runs
from bench.sft import (
    BATCH,
    DEFAULT,
    PART,
    PLAIN,
    UNCHECKED,
    Train,
    arguments,
    check_losses,
    schedule,
    scratch_folder,
    train,
    training_run,
)
from bench.workloads import SEED, Workload, take
from medqa import curves, dpo, model
from medqa.records import Pair
from medqa.runtime import sections
from medqa.training.fine_tuning import TrainingJob

UNIT = "pairs"
ROWS = {"embedded": 192, "random": 8, "tiny": 8}
EPOCHS = 2
CHECKED = {"embedded": 32, "random": 8, "tiny": 8}
BETA = 0.1
TARGETS = {DEFAULT: 1.3, UNCHECKED: 1.2}


def contenders(workload: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what prepares a run over so many pairs, from the base and SFT adapter to a saved adapter."""

    def prepared(train: Train, part: int = 1, **options: Any) -> Callable[[int], runs.Run]:
        return training_run(train, workload, workload.pairs, EPOCHS, part, **options)

    return {
        runs.OURS: prepared(ours),
        PLAIN: prepared(theirs, PART, micro=1),
        DEFAULT: prepared(theirs),
        UNCHECKED: prepared(theirs, gradient_checkpointing=False),
    }


def ours(workload: Workload, pairs: Sequence[Pair], batch: int, epochs: int) -> list[float]:
    """The losses of the stage's steps."""
    loss = {"beta": BETA, "loss_type": "sigmoid", "sft_weight": 0.0, "ld_alpha": None}
    params = sections.DpoParams(**schedule(batch, epochs), **loss)
    with scratch_folder() as folder:
        job = TrainingJob("dpo", workload.base, params, "float32", SEED, folder / "dpo", folder / "curve")
        dpo.train(job, workload.adapter, pairs)
        return curves.read_curve(folder / "curve")["loss"]


def theirs(
    workload: Workload, pairs: Sequence[Pair], batch: int, epochs: int, micro: int = BATCH, **options: Any
) -> list[float]:
    """The losses of TRL's trainer on the quantised base, `micro` pairs at once."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    with scratch_folder() as folder:
        trainer = DPOTrainer(
            model=model.load(workload.base, "float32", workload.adapter, trainable=True),
            args=DPOConfig(**arguments(folder, batch, epochs, micro), beta=BETA, **options),
            train_dataset=Dataset.from_list(peers.dpo_rows(pairs)),
            processing_class=model.tokenizer(workload.base),
        )
        return train(trainer, folder)


def check(workload: Workload) -> str:
    """Check that all contenders have the same losses to 1e-4. Raises AssertionError if they do not."""
    pairs = take(workload.pairs, CHECKED[workload.name])
    steps = check_losses(ours, theirs, workload, pairs)
    return f"losses of {steps} steps on {len(pairs)} pairs the same to 1e-4"
