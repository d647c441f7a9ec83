"""Direct preference optimisation (Rafailov et al. 2023): trains the SFT adapter against its frozen copy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medqa import curves, model, prompts
from medqa.records import Pair
from medqa.runtime.row_cache import RowCache
from medqa.runtime.sections import DpoParams
from medqa.training import checkpoints, fine_tuning, lengths
from medqa.training.fine_tuning import TrainingJob
from medqa.training.lengths import LengthAudit
from medqa.training.reference_logprobs import add_reference_logprobs

CURVE_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}


def train(
    job: TrainingJob[DpoParams], adapter: Path, pairs: Sequence[Pair], cache: RowCache | None = None
) -> LengthAudit[Pair]:
    """Train the SFT adapter on the pairs that fit; save it and its step curve; return which pairs fit.

    Policy and reference are equal in the first step: with the loss type sigmoid its loss is ln 2, besides the
    SFT term, and its margin 0. In `cache` the reference's log-probabilities are kept for runs with another
    beta, learning rate or number of epochs. Raises UserError if no pair fits, or if training diverges; then
    nothing is saved.
    """
    from trl import DPOConfig, DPOTrainer

    audit = audit_lengths(job.base, pairs, job.params)
    audit.report(job.stage, job.params.max_length)
    rows = [
        {
            "id": pair.id,
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in audit.rows
    ]
    with checkpoints.checkpoint_folder(job.fingerprint(audit.rows, adapter)) as folder:
        arguments = fine_tuning.arguments(job, len(rows), folder / "work")
        config = DPOConfig(**arguments, beta=job.params.beta, **loss_terms(job.params))
        trainer = fine_tuning.build(job, DPOTrainer, config, rows, adapter)
        add_reference_logprobs(trainer, job, adapter, audit.rows, cache)
        fine_tuning.run(job, trainer, folder, CURVE_COLUMNS)
    return audit


def audit_lengths(base: Path, pairs: Sequence[Pair], params: DpoParams) -> LengthAudit[Pair]:
    """Which pairs fit into `max_length` tokens of the base's tokenizer."""
    return lengths.audit_lengths(model.tokenizer(base), pairs, ["chosen", "rejected"], params.max_length)


def summarize(audit: LengthAudit[Pair], curve: Path) -> dict[str, float]:
    """The metrics of a run, from the audit of its pairs and its step curve."""
    steps = curves.read_curve(curve)
    return audit.counts("pairs") | {
        "steps": len(steps["loss"]),
        "first_loss": steps["loss"][0],
        "first_margin": steps["margin"][0],
        "final_loss": curves.tail_mean(steps["loss"]),
        "final_margin": curves.tail_mean(steps["margin"]),
        "final_accuracy": curves.tail_mean(steps["accuracy"]),
    }


def loss_terms(params: DpoParams) -> dict[str, Any]:
    """TRL's loss settings: the preference loss plus `sft_weight` times the mean loss of the chosen answer."""
    if params.sft_weight == 0:
        return {"loss_type": [params.loss_type]}
    return {"loss_type": [params.loss_type, "sft"], "loss_weights": [1.0, params.sft_weight]}
