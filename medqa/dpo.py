"""Direct preference optimisation (Rafailov et al. 2023): the SFT adapter trains on against its frozen copy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medqa import checkpoints, model, prompts, training
from medqa.params import Float
from medqa.records import Pair

COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}


LossType = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "hinge",
    "robust",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]  # of TRL; exo_pair wants label smoothing besides


class Params(training.Schedule):
    """Section `dpo` of params.yaml."""

    beta: Float = Field(gt=0)
    loss_type: LossType
    sft_weight: Float = Field(ge=0)


def train(
    base: Path,
    adapter: Path,
    pairs: Sequence[Pair],
    params: Params,
    dtype: str,
    seed: int,
    out: Path,
    curve: Path,
    minutes: float = 10,
) -> None:
    """Train the SFT adapter on with preference pairs, save it to `out` and its step curve to `curve`.

    The first step is taken from the reference itself: with the loss type sigmoid, loss ln 2 (beside the SFT term) and
    margin 0. Raises UserError if the loss or the gradient stops being finite; nothing is saved then.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tok = model.tokenizer(base)
    rows = [
        {
            "id": pair.id,
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in pairs
    ]
    steps = training.curve("dpo")
    name = checkpoints.fingerprint(params, dtype, seed, pairs, [base, adapter])
    with checkpoints.folder(name) as (kept, folder):
        trainer = DPOTrainer(
            model=model.load(base, dtype, adapter, trainable=True),
            args=DPOConfig(
                **training.arguments(params, len(rows), seed, folder), beta=params.beta, **loss_terms(params)
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tok,
            callbacks=[steps],
        )
        training.run(trainer, steps, kept, minutes)
        training.save_adapter(trainer.model, base, out)
        training.write_curve(curve, steps.rows, COLUMNS)


def summary(pairs: int, curve: Path) -> dict[str, Any]:
    """The metrics of a run on so many pairs, from its step curve."""
    steps = training.read_curve(curve)
    return {
        "pairs": pairs,
        "steps": len(steps["loss"]),
        "first_loss": steps["loss"][0],
        "first_margin": steps["margin"][0],
        "final_loss": training.tail_mean(steps["loss"]),
        "final_margin": training.tail_mean(steps["margin"]),
        "final_accuracy": training.tail_mean(steps["accuracy"]),
    }


def loss_terms(params: Params) -> dict[str, Any]:
    """TRL's loss settings: the preference loss, with `sft_weight` times the mean loss on the chosen answer added."""
    if params.sft_weight == 0:
        return {"loss_type": [params.loss_type]}
    return {"loss_type": [params.loss_type, "sft"], "loss_weights": [1.0, params.sft_weight]}
