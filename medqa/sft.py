"""Supervised fine-tuning: a LoRA adapter on the quantised base, trained by TRL on the answers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from medqa import checkpoints, model, packing, prompts, training
from medqa.params import Float, Int, Section
from medqa.records import Example


class Lora(Section):
    """The shape of the adapter; its targets are the attention and MLP projections."""

    r: Int = Field(ge=1)
    alpha: Int = Field(ge=1)
    dropout: Float = Field(ge=0, lt=1)


class Params(training.Schedule):
    """Section `sft` of params.yaml."""

    lora: Lora


def train(
    base: Path,
    examples: Sequence[Example],
    params: Params,
    dtype: str,
    seed: int,
    out: Path,
    curve: Path,
    minutes: float = 10,
) -> None:
    """Train an adapter on `examples`, save it to `out` and its step curve to `curve`.

    Raises UserError if the loss or the gradient stops being finite; nothing is saved then.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    tok = model.tokenizer(base)
    rows = [
        {"id": row.id, "prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in examples
    ]
    lora = params.lora
    steps = training.curve("sft")
    name = checkpoints.fingerprint(params, dtype, seed, examples, [base])
    with checkpoints.folder(name) as (kept, folder):
        trainer = SFTTrainer(
            args=training.on_one_gpu(SFTConfig(**training.arguments(params, len(rows), dtype, seed, folder))),
            model=training.load("sft", base, dtype, params),
            train_dataset=Dataset.from_list(rows),
            processing_class=tok,
            callbacks=[steps],
            peft_config=LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=training.TARGETS,
                task_type="CAUSAL_LM",
            ),
        )
        packing.pack(trainer.model.get_base_model())
        training.run(trainer, steps, kept, minutes)
        training.save_adapter(trainer.model, base, out)
        training.write_curve(curve, steps.rows, {"loss": "loss", "learning_rate": "learning_rate"})


def summary(examples: int, curve: Path) -> dict[str, Any]:
    """The metrics of a run on so many rows, from its step curve."""
    loss = training.read_curve(curve)["loss"]
    return {"examples": examples, "steps": len(loss), "first_loss": loss[0], "final_loss": training.tail_mean(loss)}
