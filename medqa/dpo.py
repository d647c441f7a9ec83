"""Direct preference optimisation (Rafailov et al. 2023): trains the SFT adapter against its frozen copy."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa import curves, model, prompts
from medqa.records import Pair
from medqa.runtime import distributed, hashing
from medqa.runtime.row_cache import RowCache
from medqa.runtime.sections import DpoParams
from medqa.training import checkpoints, fine_tuning, lengths
from medqa.training.fine_tuning import Attempt, TrainingJob
from medqa.training.lengths import LengthAudit
from medqa.training.recorder import Recorder

if TYPE_CHECKING:
    from trl import DPOTrainer

Logprobs = Sequence[Sequence[float]]  # of the chosen and of the rejected answers of a chunk, in nats

CURVE_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}
# Micro-batches per cached chunk. Their pairs are always computed together, for the same last bits.
CHUNK_BATCHES = 4
# The parameters that the reference's log-probabilities depend on.
REFERENCE_PARAMS = {"max_length", "micro_batch_size", "dequantised", "ld_alpha"}
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # as TRL names them


def train(
    job: TrainingJob[DpoParams], adapter: Path, pairs: Sequence[Pair], cache: RowCache | None = None
) -> LengthAudit[Pair]:
    """Train the SFT adapter on the pairs that fit; save it and its step curve; return which pairs fit.

    Policy and reference are equal in the first step: with the loss type sigmoid its loss is ln 2, besides the
    SFT term, and its margin 0. In `cache` the reference's log-probabilities are kept for runs with another
    beta, learning rate or number of epochs. Raises UserError if no pair fits, or if training diverges; then
    nothing is saved.
    """
    audit = audit_lengths(job.base, pairs, job.params)
    audit.report(job.stage, job.params.max_length)
    fine_tuning.check_batch(job)
    keys = _reference_keys(job, adapter, audit.rows)
    models = [job.base, adapter]
    model_id, name = "+".join(map(hashing.dvc_hash, models)), " + ".join(path.name for path in models)
    known = cache.get(model_id, name, keys) if cache else {}
    store = partial(cache.put, model_id) if cache else None
    fit_pairs = partial(fit, keys=keys, known=known)
    fine_tuning.train(job, fit_pairs, audit.rows, CURVE_COLUMNS, [adapter], store)
    return audit


def fit(
    job: TrainingJob[DpoParams],
    pairs: Sequence[Pair],
    attempt: Attempt,
    adapter: Path,
    keys: Sequence[bytes],
    known: Mapping[bytes, Logprobs],
) -> None:
    """Train on the pairs in this process, alone or as one of those that train together.

    `keys` name the chunks of pairs, `known` are the reference's log-probabilities of some by their key.
    """
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "id": pair.id,
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in pairs
    ]
    arguments = fine_tuning.arguments(job, len(rows), attempt.folder)
    config = DPOConfig(**arguments, beta=job.params.beta, **loss_terms(job.params))
    trainer = fine_tuning.build(job, DPOTrainer, config, rows, adapter)
    add_reference_logprobs(trainer, keys, known, attempt.recorder)
    fine_tuning.run(job, trainer, attempt)


def add_reference_logprobs(
    trainer: "DPOTrainer", keys: Sequence[bytes], known: Mapping[bytes, Logprobs], recorder: Recorder
) -> None:
    """Add the reference's log-probabilities of both answers to each of the trainer's pairs.

    TRL would compute them again in every epoch. The processes share the chunks that are not known.
    """
    size, total = CHUNK_BATCHES * trainer.args.per_device_train_batch_size, len(trainer.train_dataset)
    missing = [(key, index * size) for index, key in enumerate(keys) if key not in known]
    computed: list[tuple[bytes, Logprobs]] = []
    trainer.model.eval()
    for key, start in missing[distributed.rank() :: distributed.world_size()]:
        logprobs = _reference_logprobs(trainer, start, min(start + size, total))
        computed.append((key, logprobs))
        recorder.store_rows({key: logprobs})
    by_key = {**known, **dict(distributed.gather(computed))}
    for side, column in enumerate(REFERENCE_COLUMNS):
        values = [logprob for key in keys for logprob in by_key[key][side]]
        trainer.train_dataset = trainer.train_dataset.add_column(column, values)
    trainer.precompute_ref_logps = True  # tells TRL that these two columns are there


def _reference_keys(job: TrainingJob, adapter: Path, pairs: Sequence[Pair]) -> list[bytes]:
    """The keys of chunks of pairs in the row cache."""
    size = CHUNK_BATCHES * job.params.micro_batch_size
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    identity = checkpoints.fingerprint(job.settings(REFERENCE_PARAMS), [], [job.base, adapter])
    texts = (json.dumps([identity, [vars(pair) for pair in chunk]]) for chunk in chunks)
    return [hashlib.sha256(text.encode()).digest() for text in texts]


def _reference_logprobs(trainer: "DPOTrainer", start: int, stop: int) -> Logprobs:
    chosen: list[float] = []
    rejected: list[float] = []
    size = trainer.args.per_device_train_batch_size
    for first in range(start, stop, size):
        rows = list(trainer.train_dataset.select(range(first, min(first + size, stop))))
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        chosen_logps, rejected_logps = trainer.compute_ref_log_probs(trainer.model, batch)
        chosen += chosen_logps.tolist()
        rejected += rejected_logps.tolist()
    return chosen, rejected


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


def describe(result: dict[str, float]) -> str:
    """The metrics of a run in a line."""
    return (
        f"{result['steps']} steps on {result['pairs']} pairs, loss {result['first_loss']:.3f} to "
        f"{result['final_loss']:.3f}, margin {result['final_margin']:.3f}, "
        f"accuracy {result['final_accuracy']:.2f}"
    )


def loss_terms(params: DpoParams) -> dict[str, Any]:
    """TRL's loss settings: the preference loss plus `sft_weight` times the mean loss of the chosen answer."""
    terms = {params.loss_type: 1.0} | ({"sft": params.sft_weight} if params.sft_weight else {})
    return {
        "loss_type": list(terms),
        "loss_weights": list(terms.values()),
        "ld_alpha": params.ld_alpha,
    }
