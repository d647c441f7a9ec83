"""The log-probabilities of DPO's frozen reference: computed once, shared by processes, cached across runs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medqa.records import Pair
from medqa.runtime import distributed, hashing
from medqa.runtime.row_cache import RowCache
from medqa.training import checkpoints
from medqa.training.fine_tuning import TrainingJob

if TYPE_CHECKING:
    from trl import DPOTrainer

Logprobs = Sequence[Sequence[float]]  # of the chosen and of the rejected answers of a chunk, in nats

# Micro-batches per cached chunk. Their pairs are always computed together, for the same last bits.
CHUNK_BATCHES = 4
# The parameters that the reference's log-probabilities depend on.
PARAMS = {"max_length", "micro_batch_size", "dequantised"}
COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # as TRL names them


def add_reference_logprobs(
    trainer: "DPOTrainer", job: TrainingJob, adapter: Path, pairs: Sequence[Pair], cache: RowCache | None
) -> None:
    """Add the reference's log-probabilities of both answers to each of the trainer's pairs.

    TRL would compute them again in every epoch. Cached chunks are read; the processes share the other ones.
    """
    size = CHUNK_BATCHES * job.params.micro_batch_size
    keys = _chunk_keys(job, adapter, [pairs[start : start + size] for start in range(0, len(pairs), size)])
    models = [job.base, adapter]
    model_id, name = "+".join(map(hashing.dvc_hash, models)), " + ".join(path.name for path in models)
    # Rank 0 alone reads: the cache may change between the reads of two processes.
    reads = cache and distributed.rank() == 0
    known = distributed.broadcast(cache.get(model_id, name, keys) if reads else {})
    missing = [(key, index * size) for index, key in enumerate(keys) if key not in known]
    computed = []
    trainer.model.eval()
    for key, start in missing[distributed.rank() :: distributed.world_size()]:
        logprobs = _compute(trainer, start, min(start + size, len(pairs)))
        computed.append((key, logprobs))
        if cache:
            cache.put(model_id, {key: logprobs})
    known |= dict(distributed.gather(computed))
    for side, column in enumerate(COLUMNS):
        values = [logprob for key in keys for logprob in known[key][side]]
        trainer.train_dataset = trainer.train_dataset.add_column(column, values)
    trainer.precompute_ref_logps = True  # tells TRL that these two columns are there


def _chunk_keys(job: TrainingJob, adapter: Path, chunks: Sequence[Sequence[Pair]]) -> list[bytes]:
    settings = [job.params.model_dump(include=PARAMS), job.dtype]
    identity = checkpoints.fingerprint(settings, [], [job.base, adapter])
    texts = (json.dumps([identity, [vars(pair) for pair in chunk]]) for chunk in chunks)
    return [hashlib.sha256(text.encode()).digest() for text in texts]


def _compute(trainer: "DPOTrainer", start: int, stop: int) -> Logprobs:
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
