"""What the judges trained here share: corrupted answers to learn on, and validation examples."""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from medqa import jsonl, prompts
from medqa.miniature import training_text
from medqa.miniature.corrupted_answers import judge_examples
from medqa.miniature.judge_prompts import labelled_prompts
from medqa.miniature.token_rows import TokenRow, example_rows
from medqa.miniature.train_scratch import predict_labels
from medqa.records import ValidationExample
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.model_sections import ScratchJudge, TunedJudge

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VALIDATION_FILE = "validation.jsonl"


def make_rows(
    source: ScratchJudge | TunedJudge,
    tok: "PreTrainedTokenizerBase",
    text: training_text.TrainingText,
    validation_examples: int,
    seed: int,
) -> tuple[list[TokenRow], list[TokenRow]]:
    """Training rows and validation rows of a judge. Raises UserError if all training rows are too long.

    A judge that was tuned can read already, and learns from labels only.
    """
    hard = prompts.method(source.template) == "points"
    examples = judge_examples(text.facts, source.examples + validation_examples, seed, hard)
    groups = labelled_prompts(examples, source.template, seed)
    rows = example_rows(tok, groups, source.max_length, isinstance(source, TunedJudge))
    if len(rows) <= validation_examples:
        raise UserError(
            f"all examples but {len(rows)} are longer than max_length = {source.max_length}; raise it"
        )
    return rows[validation_examples:], rows[:validation_examples]


def save(
    out: Path,
    judge: "PreTrainedModel",
    tok: "PreTrainedTokenizerBase",
    validation: list[TokenRow],
    batch_size: int,
) -> None:
    """Write a judge to `out`, with the expected and the predicted labels of its validation examples."""
    predictions = predict_labels(judge, validation, batch_size)
    examples = [
        ValidationExample(
            f"{number:04d}", tok.decode(row.ids), tok.batch_decode(row.labels), tok.batch_decode(predicted)
        )
        for number, (row, predicted) in enumerate(zip(validation, predictions, strict=True))
    ]
    with atomic_folder(out) as folder:
        judge.save_pretrained(folder)
        tok.save_pretrained(folder)
        jsonl.write(folder / VALIDATION_FILE, examples)


def metrics(model_dir: Path) -> dict[str, float]:
    """The number of validation examples and the share of right labels; empty for a model without them."""
    if not (model_dir / VALIDATION_FILE).is_file():
        return {}
    examples = list(jsonl.read(model_dir / VALIDATION_FILE, ValidationExample))
    right = [
        expected == predicted
        for example in examples
        for expected, predicted in zip(example.expected, example.predicted, strict=True)
    ]
    return {"validation_examples": len(examples), "validation_accuracy": fmean(right)}
