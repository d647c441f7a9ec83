"""Small jobs of SFT and DPO that several tests run on the tiny base."""

import math
from pathlib import Path
from typing import Any

from medqa.records import Example, Pair
from medqa.runtime.sections import DpoParams, SftParams
from medqa.training.fine_tuning import TrainingJob

SCHEDULE = {
    "epochs": 1,
    "learning_rate": 0.01,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 64,
    "warmup_share": 0.0,
    "activation_checkpointing": False,
    "dequantised": True,
}
LOSS = {"beta": 0.1, "loss_type": "sigmoid", "sft_weight": 0.0, "ld_alpha": None}
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}
EXAMPLES = [
    Example(f"e{n}", "open", f"What causes disease {n}?", f"Its causes include {n} bacteria.")
    for n in range(12)
]
PAIRS = [
    Pair(f"p{n}", f"What causes disease {n}?", "bacteria and age", "nothing", 0.9, 0.1) for n in range(12)
]


def sft_job(
    base: Path, folder: Path, dtype: str = "float32", minutes: float = math.inf, **changes: Any
) -> TrainingJob[SftParams]:
    """A job that writes `sft` and `sft.tsv` in a folder, with changed parameters."""
    params = SftParams(**SCHEDULE | {"lora": LORA} | changes)
    return TrainingJob("sft", base, params, dtype, 0, folder / "sft", folder / "sft.tsv", minutes)


def dpo_job(base: Path, folder: Path, minutes: float = math.inf, **changes: Any) -> TrainingJob[DpoParams]:
    """A job that writes `dpo` and `dpo.tsv` in a folder, with changed parameters."""
    params = DpoParams(**SCHEDULE | LOSS | changes)
    return TrainingJob("dpo", base, params, "float32", 0, folder / "dpo", folder / "dpo.tsv", minutes)
