"""A judge tuned from an encoder: it learns which of many texts says a statement."""

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medqa import attacks, encoder, hub, jsonl, late_interaction, model, prompts, sources
from medqa.late_interaction import Calibration
from medqa.miniature import contrasts, training_text
from medqa.miniature.contrasts import Contrasts, QuestionAnswer
from medqa.miniature.judge_training import VALIDATION_FILE
from medqa.miniature.train_scratch import minimise
from medqa.records import ValidationExample
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.model_sections import TunedEncoder
from medqa.sources import ultramedical
from medqa.text import key_points, normalize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPERATURE = 0.05  # of the cosines in the loss
VALIDATION_ROWS = 200


def make(
    source: TunedEncoder, start: Path, corpus: Path, seed: int, out: Path
) -> tuple[list[float], dict[str, str]]:
    """Train the encoder in `start`, calibrate it on rows that it did not train on, and write it to `out`.

    Returns the loss of each step, and the provenance of `start`. Raises UserError if there are too few rows.
    """
    rng = random.Random(f"contrasts {seed}")
    rows = read_rows(source, corpus, seed)
    rng.shuffle(rows)
    validation, rows = rows[:VALIDATION_ROWS], rows[VALIDATION_ROWS : VALIDATION_ROWS + source.examples]
    if len(rows) < source.batch_size:
        needed = VALIDATION_ROWS + source.batch_size
        raise UserError(f"{corpus / source.text} must hold at least {needed} rows that `exclude` leaves")
    net, tok = encoder.load(start), encoder.load_tokenizer(start)
    tok.model_max_length = min(tok.model_max_length, source.max_length)
    nearest = contrasts.neighbours(encoder.embed(start, [row.question for row in rows]))
    losses = _train(net, tok, rows, nearest, source, seed)
    pairs = _validation_pairs(validation, encoder.embed(start, [row.question for row in validation]), rng)
    measured = _similarities(net, tok, pairs)
    calibration = calibrate(measured, [says for *_, says in pairs])
    with atomic_folder(out) as folder:
        net.save_pretrained(folder)
        encoder.load_tokenizer(start).save_pretrained(folder)
        late_interaction.write_calibration(folder, calibration)
        jsonl.write(folder / VALIDATION_FILE, _examples(pairs, measured, calibration, source.template))
    return losses, hub.provenance(start)


def read_rows(source: TunedEncoder, corpus: Path, seed: int) -> list[QuestionAnswer]:
    """The distinct rows of the text, without the questions and answers of the files in `exclude`."""
    excluded = set()
    for name in source.exclude:
        for raw in sources.read_rows(corpus / name):
            try:
                parsed = ultramedical.parse_preference(raw.row)
            except ValueError:
                continue  # the stage `data` counts it, and leaves it out as well
            excluded |= set(map(normalize, (parsed.prompt, parsed.chosen, parsed.rejected)))
    rows: dict[str, QuestionAnswer] = {}
    for question, answer in training_text.load(source.text, corpus, seed).turns:
        row = QuestionAnswer(question["content"], answer["content"])
        keys = normalize(row.question), normalize(row.answer)
        if not excluded & set(keys):
            rows.setdefault(keys[0], row)
    return [rows[key] for key in sorted(rows)]


def _train(
    net: "PreTrainedModel",
    tok: "PreTrainedTokenizerBase",
    rows: Sequence[QuestionAnswer],
    nearest: "np.ndarray",
    source: TunedEncoder,
    seed: int,
) -> list[float]:
    """Train in place; returns the loss of each step."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    torch.manual_seed(seed)
    rng, adversarial = random.Random(f"batches {seed}"), attacks.training_attacks()
    batches = contrasts.batches(rows, nearest, source.batch_size, rng)
    optimizer = torch.optim.AdamW(net.parameters(), lr=source.learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, source.steps // 10, source.steps)
    losses = (
        contrast_loss(net, tok, contrasts.contrast(batch, adversarial, rng))
        for batch in islice(batches, source.steps)
    )
    return minimise(net, optimizer, schedule, losses, source.steps, "judge")


def contrast_loss(net: "PreTrainedModel", tok: "PreTrainedTokenizerBase", batch: Contrasts) -> "torch.Tensor":
    """The mean cross-entropy of the right text among all texts (InfoNCE, van den Oord et al. 2018)."""
    import torch

    device = net.device
    with torch.autocast(device.type, torch.bfloat16, enabled=model.multiplies_bfloat16(device.type)):
        statements = late_interaction.statement_vectors(
            net, encoder.tokenize(tok, batch.statements), encoder.tokenize(tok, batch.questions)
        )
        texts = late_interaction.token_vectors(net, encoder.tokenize(tok, batch.texts))
    logits = late_interaction.similarities(statements, texts) / TEMPERATURE
    for statement, text in batch.ignored:
        logits[statement, text] = -torch.inf
    return torch.nn.functional.cross_entropy(logits, torch.tensor(batch.right, device=device))


Pair = tuple[str, str, str, bool]  # a question, a statement, a text, and whether the text says it


def _validation_pairs(
    rows: Sequence[QuestionAnswer], vectors: "np.ndarray", rng: random.Random
) -> list[Pair]:
    """Questions and sentences of answers, each with a text that says it and with one that does not."""
    pairs: list[Pair] = []
    for row, nearest in zip(rows, contrasts.neighbours(vectors), strict=True):
        neighbour = rows[int(nearest[0])]
        question = row.question
        pairs += [(question, question, row.answer, True), (question, question, neighbour.answer, False)]
        sentences = key_points(row.answer)
        if len(sentences) > 1:
            drawn = rng.randrange(len(sentences))
            rest = " ".join(sentences[:drawn] + sentences[drawn + 1 :])
            statement = contrasts.drop_words(sentences[drawn], rng)
            pairs += [(question, statement, row.answer, True), (question, statement, rest, False)]
    return pairs


def _similarities(
    net: "PreTrainedModel", tok: "PreTrainedTokenizerBase", pairs: Sequence[Pair]
) -> list[float]:
    import torch

    result = []
    with torch.inference_mode():
        for question, statement, text, _ in pairs:
            rows = (encoder.tokenize(tok, [words]) for words in (statement, question))
            statements = late_interaction.statement_vectors(net, *rows)
            texts = late_interaction.token_vectors(net, encoder.tokenize(tok, [text]))
            result.append(late_interaction.similarities(statements, texts).item())
    return result


def _examples(
    pairs: Sequence[Pair], similarities: Sequence[float], calibration: Calibration, template: str
) -> list[ValidationExample]:
    labels = prompts.labels(template)
    return [
        ValidationExample(
            f"{number:04d}",
            f"{text}\n{statement}",
            (labels[says],),
            (labels[calibration.probability(similarity) > 0.5],),
        )
        for number, ((_, statement, text, says), similarity) in enumerate(
            zip(pairs, similarities, strict=True)
        )
    ]


def calibrate(similarities: Sequence[float], labels: Sequence[bool]) -> Calibration:
    """The calibration that makes the labels likeliest: logistic regression (Platt 1999) of one variable."""
    import torch

    x = torch.tensor(similarities, dtype=torch.float64)
    y = torch.tensor(labels, dtype=torch.float64)
    weights = torch.tensor([10.0, -10.0 * x.mean().item()], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> "torch.Tensor":
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(weights[0] * x + weights[1], y)
        value.backward()
        return value

    optimizer.step(loss)
    scale, shift = weights.tolist()
    return Calibration(scale, -shift / scale)
