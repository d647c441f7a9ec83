"""medqa.training.lengths: what training leaves out is what TRL would drop, and it is counted and named."""

from pathlib import Path
from typing import Any

import pytest
from training_jobs import dpo_job, sft_job

from medqa import dpo, model, prompts, sft
from medqa.records import Example, Pair
from medqa.runtime.errors import UserError
from medqa.training import fine_tuning, lengths
from medqa.training.fine_tuning import TrainingJob

LONG = "Why? " * 40


@pytest.fixture(scope="module")
def growing(tiny_base: Path) -> list[Example]:
    """Rows whose prompts have from 50 to 67 tokens; short and long answers in turn."""
    tok = model.tokenizer(tiny_base)

    def tokens(question: str) -> int:
        turns = prompts.ask(question)
        return len(tok.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"])

    assert tokens("a a") - tokens("a") == 1
    sizes = range(50, 68)
    rows = [
        Example(f"e{n}", "open", "a" + " a" * (n - tokens("a")), "So it is. " * (1 + 9 * (n % 2)))
        for n in sizes
    ]
    assert [tokens(row.question) for row in rows] == list(sizes)
    return rows


def pairs_of(rows: list[Example]) -> list[Pair]:
    return [Pair(row.id, row.question, row.answer, "No.", 0.9, 0.1) for row in rows]


def ids_of_trl(job: TrainingJob, trainer: type, config: type, rows: list[dict[str, Any]]) -> list[str]:
    """The rows that TRL trains on if nobody leaves any out before."""
    from datasets import Dataset
    from peft import LoraConfig

    built = trainer(
        model=model.load(job.base, "float32"),
        args=config(**fine_tuning.arguments(job, len(rows), job.out)),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer(job.base),
        peft_config=LoraConfig(r=4, target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM"),
    )
    return list(built.train_dataset["id"])


def test_sft_leaves_out_what_trl_drops(growing: list[Example], tiny_base: Path, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    job = sft_job(tiny_base, tmp_path)
    rows = [
        {"id": row.id, "prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)}
        for row in growing
    ]
    audit = sft.audit_lengths(tiny_base, growing, job.params)
    assert [row.id for row in audit.rows] == ids_of_trl(job, SFTTrainer, SFTConfig, rows)
    assert audit.too_long == ["e64", "e65", "e66", "e67"]
    # The short answers take eight tokens with their end of turn; the line break after it may be cut off.
    assert audit.shortened == [f"e{n}" for n in (51, 53, 55, 57, 58, 59, 60, 61, 62, 63)]


def test_dpo_leaves_out_what_trl_drops(growing: list[Example], tiny_base: Path, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    job = dpo_job(tiny_base, tmp_path)
    rows = [
        {"id": row.id, "prompt": prompts.ask(row.question)}
        | {"chosen": prompts.reply(row.answer), "rejected": prompts.reply("No.")}
        for row in growing
    ]
    audit = dpo.audit_lengths(tiny_base, pairs_of(growing), job.params)
    assert [row.id for row in audit.rows] == ids_of_trl(job, DPOTrainer, DPOConfig, rows)
    assert audit.counts("pairs") == {"pairs": 14, "left_out_too_long": 4, "shortened": 10}


def train(
    stage: str, base: Path, adapter: Path, rows: list[Example], folder: Path, **changes: Any
) -> dict[str, float]:
    if stage == "sft":
        job = sft_job(base, folder, **changes)
        return sft.summarize(sft.train(job, rows), job.curve)
    job = dpo_job(base, folder, **changes)
    return dpo.summarize(dpo.train(job, adapter, pairs_of(rows)), job.curve)


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (["What?", LONG, "Which?", "Who?"], {}),
        (["What?"], {}),  # one row, and a batch larger than that
        (["What?", LONG], {"batch_size": 8, "micro_batch_size": 8}),
        (["What?", "Which?", LONG, "Who?", "Where?", "When?"], {"epochs": 0.01}),  # less than one step
    ],
)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_training_counts_what_it_trains_on(
    stage: str, rows: list[str], changes: dict, tiny_base, models, tmp_path, capsys
) -> None:
    examples = [Example(f"e{n}", "open", question, "So.") for n, question in enumerate(rows)]
    result = train(stage, tiny_base, models / "sft", examples, tmp_path, **changes)
    counts = {"examples" if stage == "sft" else "pairs": len(rows) - rows.count(LONG), "steps": 1}
    assert result == result | counts | {"left_out_too_long": rows.count(LONG), "shortened": 0}
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    message = f"{stage}: 1 of {len(rows)} rows left out: the prompt alone reaches max_length = 64 tokens (e"
    assert [line[: len(message)] for line in lines] == [message] * rows.count(LONG)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_no_row_that_fits_is_one_sentence(stage: str, tiny_base: Path, models: Path, tmp_path: Path) -> None:
    rows = [Example(f"e{n:02}", "open", LONG, "So.") for n in range(10)]
    message = rf"^none of the 10 rows .* \(e00, .*, e07 and 2 more\); raise {stage}\.max_length$"
    with pytest.raises(UserError, match=message):
        train(stage, tiny_base, models / "sft", rows, tmp_path)
    assert not (tmp_path / stage).exists()


class FakeTrainer:
    def __init__(self, ids: str):
        self.train_dataset = {"id": list(ids)}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("ac", "TRL made 2 rows of 3 .without b., so that"),
        ("acb", "TRL made 3 rows of 3 .in another order"),
        ("abcc", "TRL made 4 rows of 3 .in another order, or some twice"),
    ],
)
def test_rows_that_a_library_loses_or_moves_end_the_stage(ids: str, message: str) -> None:
    rows = [{"id": name} for name in "abc"]
    lengths.check_trainer_rows(FakeTrainer("abc"), rows)
    with pytest.raises(UserError, match=message):
        lengths.check_trainer_rows(FakeTrainer(ids), rows)
