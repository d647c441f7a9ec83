"""Direct preference optimisation (Rafailov et al. 2023): the SFT adapter trains on against its frozen copy."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from medqa import model, prompts
from medqa.records import Pair
from medqa.runtime import distributed, hashing
from medqa.runtime.fields import Int, Section
from medqa.runtime.row_cache import RowCache
from medqa.runtime.sections import DpoParams
from medqa.training import checkpoints, fine_tuning, lengths, padding_free

CHUNK = 64  # pairs whose reference is computed and then kept; always the same ones together, for the same last bits

SIDES = ("chosen", "rejected")  # fields of a pair that hold an answer
COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}


class Reference(Section):
    """The parameters that the reference's log-probabilities depend on."""

    max_length: Int
    micro_batch_size: Int
    dequantised: bool


def train(
    base: Path,
    adapter: Path,
    pairs: Sequence[Pair],
    params: DpoParams,
    dtype: str,
    seed: int,
    out: Path,
    curve: Path,
    minutes: float = 10,
    store: RowCache | None = None,
) -> lengths.Fit:
    """Train the SFT adapter on with the pairs that fit, save it to `out` and its step curve to `curve`; which
    did fit.

    The first step is taken from the reference itself: with the loss type sigmoid, loss ln 2 (beside the SFT
    term) and margin 0. Raises UserError if none fits, or if the loss or the gradient stops being finite;
    nothing is saved then. In `store` the reference's log-probabilities are kept for runs with another beta,
    learning rate or number of epochs.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tok = model.tokenizer(base)
    usable = lengths.usable("dpo", tok, pairs, SIDES, params.max_length)
    pairs = usable.rows
    rows = [
        {
            "id": pair.id,
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in pairs
    ]
    steps = fine_tuning.step_logger("dpo")
    name = checkpoints.fingerprint(params, dtype, seed, pairs, [base, adapter])
    with checkpoints.folder(name) as (kept, folder):
        trainer = DPOTrainer(
            args=fine_tuning.on_one_gpu(
                DPOConfig(
                    **fine_tuning.arguments(params, len(rows), dtype, seed, folder),
                    beta=params.beta,
                    **loss_terms(params),
                )
            ),
            model=fine_tuning.load("dpo", base, dtype, params, adapter),
            train_dataset=Dataset.from_list(rows),
            processing_class=tok,
            callbacks=[steps],
        )
        lengths.check(trainer, pairs)
        padding_free.enable(trainer.model.get_base_model())
        add_reference_logprobs(trainer, pairs, [base, adapter], params, dtype, store)
        fine_tuning.run(trainer, steps, kept, minutes)
        fine_tuning.save_adapter(trainer.model, base, out)
        fine_tuning.write_curve(curve, steps.rows, COLUMNS)
    return usable


def add_reference_logprobs(
    trainer: Any,
    pairs: Sequence[Pair],
    folders: Sequence[Path],
    params: DpoParams,
    dtype: str,
    store: RowCache | None,
) -> None:
    """Give each pair the log-probabilities, in nats, of both its answers under the reference in `folders`.

    TRL would compute them again in every epoch. Chunks that the store knows are read; processes share the
    others.
    """
    reads = Reference(**{name: getattr(params, name) for name in Reference.model_fields})
    identity = checkpoints.fingerprint(reads, dtype, 0, [], folders)
    kept = "+".join(map(hashing.dvc_hash, folders)), " + ".join(folder.name for folder in folders)
    chunks = [range(start, min(start + CHUNK, len(pairs))) for start in range(0, len(pairs), CHUNK)]
    keys = [_key(identity, [pairs[place] for place in chunk]) for chunk in chunks]
    # One process looks: each could see another state of the store.
    known = distributed.broadcast(store.get(*kept, keys) if store and distributed.rank() == 0 else {})
    missing = [(key, chunk) for key, chunk in zip(keys, chunks, strict=True) if key not in known]
    trainer.model.eval()
    for key, chunk in missing[distributed.rank() :: distributed.world_size()]:
        told = _reference(trainer, chunk, params.micro_batch_size)
        known[key] = told
        if store:
            store.put(kept[0], {key: told})
    known |= dict(distributed.gather([(key, known[key]) for key, _ in missing if key in known]))
    for side, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        column = [nats for key in keys for nats in known[key][side]]
        trainer.train_dataset = trainer.train_dataset.add_column(name, column)
    trainer.precompute_ref_logps = True  # what TRL calls having these two columns


def _key(identity: str, pairs: Sequence[Pair]) -> bytes:
    told = json.dumps([identity, [astuple(pair) for pair in pairs]])
    return hashlib.sha256(told.encode()).digest()


def _reference(trainer: Any, chunk: range, at_once: int) -> tuple[list[float], list[float]]:
    sides: tuple[list[float], list[float]] = [], []
    for start in range(chunk.start, chunk.stop, at_once):
        rows = [trainer.train_dataset[place] for place in range(start, min(start + at_once, chunk.stop))]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        for side, nats in zip(sides, trainer.compute_ref_log_probs(trainer.model, batch), strict=True):
            side += nats.tolist()
    return sides


def fit(base: Path, pairs: Sequence[Pair], params: DpoParams) -> lengths.Fit:
    """Which pairs `train` trains on."""
    return lengths.fit(model.tokenizer(base), pairs, SIDES, params.max_length)


def summary(usable: lengths.Fit, curve: Path) -> dict[str, Any]:
    """The metrics of a run on the pairs that fit, from its step curve."""
    steps = fine_tuning.read_curve(curve)
    return usable.counts("pairs") | {
        "steps": len(steps["loss"]),
        "first_loss": steps["loss"][0],
        "first_margin": steps["margin"][0],
        "final_loss": fine_tuning.tail_mean(steps["loss"]),
        "final_margin": fine_tuning.tail_mean(steps["margin"]),
        "final_accuracy": fine_tuning.tail_mean(steps["accuracy"]),
    }


def loss_terms(params: DpoParams) -> dict[str, Any]:
    """TRL's loss settings: the preference loss, with `sft_weight` times the mean loss on the chosen answer
    added.
    """
    if params.sft_weight == 0:
        return {"loss_type": [params.loss_type]}
    return {"loss_type": [params.loss_type, "sft"], "loss_weights": [1.0, params.sft_weight]}
