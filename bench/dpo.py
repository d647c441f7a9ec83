"""Preference optimisation over two epochs: the stage against TRL's trainer, as it comes and a pair at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench import runs
from bench.sft import BATCH, DEFAULT, PART, PLAIN, UNCHECKED, arguments, aside, assert_near, schedule, trained
from bench.workloads import SEED, Workload, some
from medqa import curves, dpo, model, prompts
from medqa.records import Pair
from medqa.runtime import sections
from medqa.training.fine_tuning import TrainingJob

UNIT = "pairs"
ROWS = {"embedded": 192, "random": 8, "tiny": 8}
EPOCHS = 2
CHECKED = {"embedded": 32, "random": 8, "tiny": 8}
BETA = 0.1
TARGETS = {DEFAULT: 1.3, UNCHECKED: 1.2}


def contenders(load: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what gives a run over so many pairs, from the files of the base and the SFT adapter to a saved
    one.
    """

    def prepared(train: Callable[..., list[float]], part: int = 1) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            pairs = some(load.pairs, rows // part)
            return lambda: (train(load, pairs, BATCH, EPOCHS), len(pairs) * EPOCHS)[1]

        return prepare

    return {
        runs.FAST: prepared(ours),
        PLAIN: prepared(partial(theirs, micro=1), PART),
        DEFAULT: prepared(theirs),
        UNCHECKED: prepared(partial(theirs, gradient_checkpointing=False)),
    }


def ours(load: Workload, pairs: Sequence[Pair], batch: int, epochs: int) -> list[float]:
    """The losses of the stage's steps."""
    params = sections.DpoParams(**schedule(batch, epochs), beta=BETA, loss_type="sigmoid", sft_weight=0.0)
    with aside() as folder:
        job = TrainingJob("dpo", load.base, params, "float32", SEED, folder / "dpo", folder / "curve")
        dpo.train(job, load.adapter, pairs)
        return curves.read_curve(folder / "curve")["loss"]


def theirs(
    load: Workload, pairs: Sequence[Pair], batch: int, epochs: int, micro: int = BATCH, **given: Any
) -> list[float]:
    """The losses of TRL's trainer on the quantised base, `micro` pairs at once."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in pairs
    ]
    with aside() as folder:
        trainer = DPOTrainer(
            model=model.load(load.base, "float32", load.adapter, trainable=True),
            args=DPOConfig(**arguments(folder, batch, epochs, micro), beta=BETA, **given),
            train_dataset=Dataset.from_list(rows),
            processing_class=model.tokenizer(load.base),
        )
        return trained(trainer, folder)


def check(load: Workload) -> str:
    """That all contenders have the same losses to 1e-4 where all pairs are in each step. AssertionError
    otherwise.
    """
    pairs = some(load.pairs, CHECKED[load.name])
    wanted = ours(load, pairs, len(pairs), 2)
    for told in (theirs(load, pairs, len(pairs), 2), theirs(load, pairs, len(pairs), 2, micro=1)):
        assert_near(wanted, told)
    return f"losses of {len(wanted)} steps on {len(pairs)} pairs the same to 1e-4"
