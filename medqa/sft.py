"""Supervised fine-tuning: TRL trains a LoRA adapter on the quantised base, on the answers alone."""

from collections.abc import Sequence
from pathlib import Path

from medqa import curves, model, prompts
from medqa.records import Example
from medqa.runtime.sections import SftParams
from medqa.training import fine_tuning, lengths
from medqa.training.fine_tuning import Attempt, TrainingJob
from medqa.training.lengths import LengthAudit

CURVE_COLUMNS = {"loss": "loss", "learning_rate": "learning_rate"}


def train(job: TrainingJob[SftParams], examples: Sequence[Example]) -> LengthAudit[Example]:
    """Train an adapter on the examples that fit; save it and its step curve; return which examples fit.

    Raises UserError if none fits, or if training diverges; then nothing is saved.
    """
    audit = audit_lengths(job.base, examples, job.params)
    audit.report(job.stage, job.params.max_length)
    fine_tuning.train(job, fit, audit.rows, CURVE_COLUMNS)
    return audit


def fit(job: TrainingJob[SftParams], examples: Sequence[Example], attempt: Attempt) -> None:
    """Train on the examples in this process, alone or as one of those that train together."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"id": row.id, "prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)}
        for row in examples
    ]
    lora = LoraConfig(
        r=job.params.lora.r,
        lora_alpha=job.params.lora.alpha,
        lora_dropout=job.params.lora.dropout,
        target_modules=fine_tuning.TARGETS,
        task_type="CAUSAL_LM",
    )
    config = SFTConfig(**fine_tuning.arguments(job, len(rows), attempt.folder))
    trainer = fine_tuning.build(job, SFTTrainer, config, rows, peft_config=lora)
    fine_tuning.run(job, trainer, attempt)


def audit_lengths(base: Path, examples: Sequence[Example], params: SftParams) -> LengthAudit[Example]:
    """Which examples fit into `max_length` tokens of the base's tokenizer."""
    return lengths.audit_lengths(model.tokenizer(base), examples, ["answer"], params.max_length)


def summarize(audit: LengthAudit[Example], curve: Path) -> dict[str, float]:
    """The metrics of a run, from the audit of its rows and its step curve."""
    loss = curves.read_curve(curve)["loss"]
    steps = {"steps": len(loss), "first_loss": loss[0], "final_loss": curves.tail_mean(loss)}
    return audit.counts("examples") | steps
