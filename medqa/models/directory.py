"""Where a model directory comes from: pinned on the Hub, converted from GGUF, or trained on text that is at
hand.
"""

import json
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from medqa import attacks, chat, hub, jsonl, model, prompts
from medqa.miniature import corrupted_answers, scratch, train_scratch, training_text
from medqa.models import gguf, quantise
from medqa.records import ValidationExample
from medqa.runtime.errors import UserError
from medqa.runtime.model_sections import GgufModel, HubModel, ScratchJudge, ScratchModel, TunedJudge

PASSES = 4  # ways to string the texts together before the first comes again
CALIBRATION_ROWS = 48  # texts that GPTQ measures its rounding on
UNSEEN_FILE = "validation.jsonl"
UNSEEN = 1000  # lessons kept back to measure the judge on
UNSEEN_TUNED = 200  # the same for a tuned judge, a hundred times as large


def make(
    source: HubModel | GgufModel | ScratchModel | TunedJudge, corpus: Path, seed: int, out: Path
) -> list[float]:
    """Make the model directory `out`: pin, convert or train it; returns the loss of each training step.

    Raises UserError if the Hub, the file or the text cannot be read, or for a chat format that `chat.inspect`
    refuses.
    """
    losses: list[float] = []
    origin: dict[str, Any] = {}
    match source:
        case HubModel():
            hub.pin(source.repo, source.revision, out)
        case GgufModel():
            origin = converted_model(source, corpus, seed, out)
        case TunedJudge():
            losses, origin = tuned_judge(source, corpus, seed, out)
        case ScratchJudge():
            losses = scratch_judge(source, corpus, seed, out)
        case _:
            losses = scratch_base(source, corpus, seed, out)
    chat.write(out, chat.look(out))
    if prompt := prompts.default_system(model.tokenizer(out)):
        origin["system_prompt"] = prompt
    if origin:
        (out / hub.PROVENANCE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return losses


def summary(out: Path, losses: Sequence[float]) -> dict[str, Any]:
    """The metrics of a model directory: its origin, the last mean loss, how well a judge does on unseen
    lessons.
    """
    result: dict[str, Any] = {}
    if (out / "pin.json").is_file():
        pinned = json.loads((out / "pin.json").read_text(encoding="utf-8"))
        licence, files = hub.licence(out), len(pinned["files"])
        result |= {"repo": pinned["repo"], "commit": pinned["commit"], "licence": licence, "files": files}
    result |= hub.provenance(out)
    if losses:
        result |= {"steps": len(losses), "final_loss": train_scratch.tail_mean(losses)}
    if (out / UNSEEN_FILE).is_file():
        unseen = list(jsonl.read(out / UNSEEN_FILE, ValidationExample))
        right = [a == b for row in unseen for a, b in zip(row.expected, row.predicted, strict=True)]
        result |= {"validation_examples": len(unseen), "validation_accuracy": fmean(right)}
    return result


def converted_model(source: GgufModel, corpus: Path, seed: int, out: Path) -> dict[str, Any]:
    """Write a GGUF file's model to `out`, quantised to four bits by GPTQ or in 16 bits; returns its
    provenance.
    """
    path = gguf.fetch(source.file, source.sha256, corpus)
    whole, tok = gguf.convert(path)
    with scratch.staged(out) as folder:
        if wanted := source.quantise:
            turns = training_text.gather(wanted.text, corpus, seed).turns
            drawn = random.Random(f"calibration {seed}").sample(turns, min(wanted.rows, len(turns)))
            texts = tok.apply_chat_template(drawn, tokenize=False)
            quantise.quantise(whole, tok, texts, folder, wanted.group_size, wanted.sym, half=True)
        else:
            whole.bfloat16().save_pretrained(folder)
            tok.save_pretrained(folder)
    return {"file": source.file, "sha256": source.sha256, "licence": gguf.licence(path)}


def scratch_base(source: ScratchModel, corpus: Path, seed: int, out: Path) -> list[float]:
    """Train a tiny base model on running text and chats, quantise it to four bits, and write it to `out`."""
    read = training_text.gather(source.text, corpus, seed)
    tok = scratch.tokenizer(read.wording, source.vocabulary)
    chats = tok.apply_chat_template(read.chats, tokenize=False)
    documents = [ids + [tok.pad_token_id] for ids in tok([*read.texts, *chats]).input_ids]
    needed = source.steps * source.batch_size * source.max_length / sum(map(len, documents))
    rows = train_scratch.chunk_documents(
        documents, source.max_length, passes=min(PASSES, math.ceil(needed)), seed=seed
    )
    trained = scratch.model(tok, source.width, source.layers, source.head, seed)
    losses = train_scratch.train(
        trained, rows, source.steps, source.batch_size, source.learning_rate, seed, "base"
    )
    sample = [tok.decode(row.ids) for row in rows[:CALIBRATION_ROWS]]
    with scratch.staged(out) as folder:
        quantise.quantise(trained, tok, sample, folder)
    return losses


def scratch_judge(source: ScratchJudge, corpus: Path, seed: int, out: Path) -> list[float]:
    """Train a tiny judge on damaged answers and write it to `out`, with what it says of lessons it has not
    seen.
    """
    read = training_text.gather(source.text, corpus, seed)
    tok = scratch.tokenizer(read.wording, source.vocabulary)
    drawn = draw_examples(read, source.examples + UNSEEN, seed)
    rows = train_scratch.example_rows(tok, drawn, source.template, source.max_length)
    trained = scratch.model(tok, source.width, source.layers, source.head, seed)
    scratch.look_for_the_same(trained)
    losses = train_scratch.train(
        trained, rows[UNSEEN:], source.steps, source.batch_size, source.learning_rate, seed, "judge"
    )
    with scratch.staged(out) as folder:
        trained.save_pretrained(folder)
        tok.save_pretrained(folder)
        write_validation(folder, trained, tok, rows[:UNSEEN], source.batch_size)
    return losses


def tuned_judge(source: TunedJudge, corpus: Path, seed: int, out: Path) -> tuple[list[float], dict[str, Any]]:
    """Teach a model to grade damaged answers by a LoRA adapter, merge it, and write the model in 16 bits to
    `out`.

    Returns the loss of each step, and the provenance of the model that it began as.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    read = training_text.gather(source.text, corpus, seed)
    dtype = "bfloat16" if model.multiplies_bfloat16(model.device()) else "float32"
    with started(source.start, corpus, seed, f"{out.name}.start") as folder:
        whole, tok = model.load(folder, dtype, dequantised=True), model.tokenizer(folder)
        origin = hub.provenance(folder)
    tok.padding_side = "right"
    drawn = draw_examples(read, source.examples + UNSEEN_TUNED, seed)
    rows = train_scratch.example_rows(tok, drawn, source.template, source.max_length, labels_only=True)
    if len(rows) <= UNSEEN_TUNED:
        raise UserError(
            f"all lessons but {len(rows)} are longer than max_length = {source.max_length}; raise it"
        )
    torch.manual_seed(seed)
    lora = LoraConfig(r=source.r, lora_alpha=source.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(whole, lora)
    taught, unseen = rows[UNSEEN_TUNED:], rows[:UNSEEN_TUNED]
    losses = train_scratch.train(
        whole, taught, source.steps, source.batch_size, source.learning_rate, seed, "judge"
    )
    model.merge(adapted)
    merged = adapted.get_base_model().bfloat16()
    with scratch.staged(out) as folder:
        merged.save_pretrained(folder)
        tok.save_pretrained(folder)
        write_validation(folder, merged, tok, unseen, source.batch_size)
    return losses, origin


@contextmanager
def started(source: HubModel | GgufModel, corpus: Path, seed: int, name: str) -> Iterator[Path]:
    """The directory, of this name, of the model that a tuned one begins as; it is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        make(source, corpus, seed, Path(folder, name))
        yield Path(folder, name)


def draw_examples(read: training_text.Reading, count: int, seed: int) -> list[corrupted_answers.JudgeExample]:
    """So many damaged answers to the facts of a text."""
    rng, lures = random.Random(f"lessons {seed}"), attacks.training_attacks()
    return [corrupted_answers.judge_example(next(read.facts), lures, rng) for _ in range(count)]


def write_validation(
    folder: Path, judge: Any, tok: Any, rows: Sequence[train_scratch.Row], batch: int
) -> None:
    """Write what a judge says of lessons that it has not seen."""
    predicted = train_scratch.predict_labels(judge, rows, batch)
    jsonl.write(
        folder / UNSEEN_FILE,
        [
            ValidationExample(
                f"{number:04d}", tok.decode(row.ids), tok.batch_decode(row.labels), tok.batch_decode(labels)
            )
            for number, (row, labels) in enumerate(zip(rows, predicted, strict=False))
        ],
    )
