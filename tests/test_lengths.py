"""medqa.lengths: what training leaves out is what TRL would drop, and it is counted and named."""

from pathlib import Path
from typing import Any

import pytest

from medqa import dpo, model, prompts, sft
from medqa.records import Example, Pair
from medqa.runtime import sections
from medqa.runtime.errors import UserError
from medqa.training import fine_tuning, lengths

SCHEDULE = {
    "epochs": 1,
    "learning_rate": 0.01,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 64,
    "warmup_share": 0.0,
    "activation_checkpointing": False,
    "dequantised": True,
}
SFT = sections.SftParams(**SCHEDULE, lora={"r": 4, "alpha": 8, "dropout": 0.0})
DPO = sections.DpoParams(**SCHEDULE, beta=0.1, loss_type="sigmoid", sft_weight=0.0)
LONG = "Why? " * 40


@pytest.fixture(scope="module")
def grown(tiny_base: Path) -> list[Example]:
    """Rows whose prompts have from 50 to 67 tokens; short and long answers in turn."""
    tok = model.tokenizer(tiny_base)

    def tokens(question: str) -> int:
        turns = prompts.ask(question)
        return len(tok.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"])

    step = tokens("a a") - tokens("a")
    assert step == 1
    first = tokens("a")
    sizes = range(50, 68)
    rows = [
        Example(f"e{n}", "open", "a" + " a" * (n - first), "So it is. " * (1 + 9 * (n % 2))) for n in sizes
    ]
    assert [tokens(row.question) for row in rows] == list(sizes)
    return rows


def pairs_of(rows: list[Example]) -> list[Pair]:
    return [Pair(row.id, row.question, row.answer, "No.", 0.9, 0.1) for row in rows]


def ids_of_trl(
    base: Path, folder: Path, rows: list[dict[str, Any]], trainer: type, config: type, **more: Any
) -> Any:
    """The rows that TRL trains on if nobody leaves any out before."""
    from datasets import Dataset

    args = config(**fine_tuning.arguments(SFT, len(rows), "float32", 0, folder))
    loaded = model.load(base, "float32")
    tok = model.tokenizer(base)
    made = trainer(
        model=loaded, args=args, train_dataset=Dataset.from_list(rows), processing_class=tok, **more
    )
    return list(made.train_dataset["id"])


def test_what_is_left_out_is_what_trl_drops(grown: list[Example], tiny_base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    peft = LoraConfig(r=4, target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM")
    questions = [{"id": row.id, "prompt": prompts.ask(row.question)} for row in grown]
    rows = [
        one | {"completion": prompts.reply(row.answer)} for one, row in zip(questions, grown, strict=True)
    ]
    usable = sft.fit(tiny_base, grown, SFT)
    assert [row.id for row in usable.rows] == ids_of_trl(
        tiny_base, tmp_path, rows, SFTTrainer, SFTConfig, peft_config=peft
    )
    assert usable.too_long == ["e64", "e65", "e66", "e67"]
    # The short answers take eight tokens with their end of turn; the line break after it may go.
    assert usable.shortened == [f"e{n}" for n in (51, 53, 55, 57, 58, 59, 60, 61, 62, 63)]
    sides = [
        one | {"chosen": prompts.reply(row.answer), "rejected": prompts.reply("No.")}
        for one, row in zip(questions, grown, strict=True)
    ]
    usable = dpo.fit(tiny_base, pairs_of(grown), DPO)
    assert [row.id for row in usable.rows] == ids_of_trl(
        tiny_base, tmp_path, sides, DPOTrainer, DPOConfig, peft_config=peft
    )
    assert usable.counts("pairs") == {"pairs": 14, "left_out_too_long": 4, "shortened": 10}


def train(
    stage: str, base: Path, adapter: Path, rows: list[Example], out: Path, **changes: Any
) -> dict[str, Any]:
    if stage == "sft":
        params = SFT.model_copy(update=changes)
        return sft.summary(sft.train(base, rows, params, "float32", 0, out / stage, out / "c"), out / "c")
    params = DPO.model_copy(update=changes)
    usable = dpo.train(base, adapter, pairs_of(rows), params, "float32", 0, out / stage, out / "c")
    return dpo.summary(usable, out / "c")


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    train("sft", tiny_base, folder, [Example("e", "open", "What?", "That.")], folder)
    return folder / "sft"


@pytest.mark.parametrize(
    ("rows", "changes", "steps"),
    [
        (["What?", LONG, "Which?", "Who?"], {}, 1),
        (["What?"], {}, 1),  # one row, and a batch larger than that
        (["What?", LONG], {"batch_size": 8, "micro_batch_size": 8}, 1),
        (
            ["What?", "Which?", LONG, "Who?", "Where?", "When?"],
            {"epochs": 0.01},
            1,
        ),  # so few that no step is whole
    ],
)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_training_counts_what_it_trains_on(
    stage: str, rows: list[str], changes: dict, steps: int, tiny_base, adapter, tmp_path, capsys
) -> None:
    examples = [Example(f"e{n}", "open", question, "So.") for n, question in enumerate(rows)]
    result = train(stage, tiny_base, adapter, examples, tmp_path, **changes)
    counts = {"examples" if stage == "sft" else "pairs": len(rows) - rows.count(LONG), "steps": steps}
    assert result == result | counts | {"left_out_too_long": rows.count(LONG), "shortened": 0}
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    message = f"{stage}: 1 of {len(rows)} rows left out: the prompt alone reaches max_length = 64 tokens (e"
    assert [line[: len(message)] for line in lines] == [message] * rows.count(LONG)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_no_row_that_fits_is_one_sentence(stage: str, tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    rows = [Example(f"e{n:02}", "open", LONG, "So.") for n in range(10)]
    message = rf"^none of the 10 rows .* \(e00, .*, e07 and 2 more\); raise {stage}\.max_length$"
    with pytest.raises(UserError, match=message):
        train(stage, tiny_base, adapter, rows, tmp_path)
    assert not (tmp_path / stage).exists()


class Trainer:
    def __init__(self, *ids: str):
        self.train_dataset = {"id": list(ids)}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("a", "c"), "TRL made 2 rows of 3 .without b., so that"),
        (("a", "c", "b"), "TRL made 3 rows of 3 .in another order"),
        (("a", "b", "c", "c"), "TRL made 4 rows of 3 .in another order, or some twice"),
    ],
)
def test_rows_that_a_library_loses_or_moves_end_the_stage(ids: tuple[str, ...], message: str) -> None:
    rows = [Example(name, "open", "What?", "That.") for name in "abc"]
    lengths.check(Trainer("a", "b", "c"), rows)
    with pytest.raises(UserError, match=message):
        lengths.check(Trainer(*ids), rows)
