"""Supervised fine-tuning: a LoRA adapter on the quantised base, trained by TRL on the answers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medqa import model, prompts
from medqa.records import Example
from medqa.runtime.sections import SftParams
from medqa.training import checkpoints, fine_tuning, lengths, padding_free

SIDES = ("answer",)  # fields of a row that hold an answer


def train(
    base: Path,
    examples: Sequence[Example],
    params: SftParams,
    dtype: str,
    seed: int,
    out: Path,
    curve: Path,
    minutes: float = 10,
) -> lengths.Fit:
    """Train an adapter on the examples that fit, save it to `out` and its step curve to `curve`; which did
    fit.

    Raises UserError if none fits, or if the loss or the gradient stops being finite; nothing is saved then.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    tok = model.tokenizer(base)
    usable = lengths.usable("sft", tok, examples, SIDES, params.max_length)
    rows = [
        {"id": row.id, "prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)}
        for row in usable.rows
    ]
    lora = params.lora
    steps = fine_tuning.step_logger("sft")
    name = checkpoints.fingerprint(params, dtype, seed, usable.rows, [base])
    with checkpoints.folder(name) as (kept, folder):
        trainer = SFTTrainer(
            args=fine_tuning.on_one_gpu(
                SFTConfig(**fine_tuning.arguments(params, len(rows), dtype, seed, folder))
            ),
            model=fine_tuning.load("sft", base, dtype, params),
            train_dataset=Dataset.from_list(rows),
            processing_class=tok,
            callbacks=[steps],
            peft_config=LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=fine_tuning.TARGETS,
                task_type="CAUSAL_LM",
            ),
        )
        lengths.check(trainer, usable.rows)
        padding_free.enable(trainer.model.get_base_model())
        fine_tuning.run(trainer, steps, kept, minutes)
        fine_tuning.save_adapter(trainer.model, base, out)
        fine_tuning.write_curve(curve, steps.rows, {"loss": "loss", "learning_rate": "learning_rate"})
    return usable


def fit(base: Path, examples: Sequence[Example], params: SftParams) -> lengths.Fit:
    """Which examples `train` trains on."""
    return lengths.fit(model.tokenizer(base), examples, SIDES, params.max_length)


def summary(usable: lengths.Fit, curve: Path) -> dict[str, Any]:
    """The metrics of a run on the rows that fit, from its step curve."""
    loss = fine_tuning.read_curve(curve)["loss"]
    steps = {"steps": len(loss), "first_loss": loss[0], "final_loss": fine_tuning.tail_mean(loss)}
    return usable.counts("examples") | steps
