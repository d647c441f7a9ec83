"""A judge tuned from an encoder: it learns which of many texts says a statement (late interaction, InfoNCE)."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medqa import attacks, encoder, hub, jsonl, late_interaction, model, prompts, sources
from medqa.late_interaction import Calibration
from medqa.miniature import contrasts, training_text
from medqa.miniature.contrasts import Contrasts, QuestionAnswer
from medqa.miniature.judge_training import VALIDATION_FILE
from medqa.records import ValidationExample
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.model_sections import TunedEncoder
from medqa.sources import ultramedical
from medqa.text import normalize

if TYPE_CHECKING:
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
                row = ultramedical.parse_preference(raw.row)
            except ValueError:
                continue  # the stage `data` counts it, and leaves it out as well
            excluded |= {normalize(row.prompt), normalize(row.chosen)}
    rows = {}
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
    nearest: "contrasts.np.ndarray",
    source: TunedEncoder,
    seed: int,
) -> list[float]:
    """Train in place; returns the loss of each step."""
    import torch
    from tqdm import trange
    from transformers import get_cosine_schedule_with_warmup

    torch.manual_seed(seed)
    rng, adversarial = random.Random(f"batches {seed}"), attacks.training_attacks()
    batches = contrasts.batches(rows, nearest, source.batch_size, rng)
    optimizer = torch.optim.AdamW(net.parameters(), lr=source.learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, source.steps // 10, source.steps)
    losses: list[float] = []
    net.train()
    for _ in trange(source.steps, desc="judge", unit="step", mininterval=2):
        loss = contrast_loss(net, tok, contrasts.contrast(next(batches), adversarial, rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.detach().item())
    net.eval()
    return losses


def contrast_loss(net: "PreTrainedModel", tok: "PreTrainedTokenizerBase", batch: Contrasts) -> "torch.Tensor":
    """The cross-entropy of the right text among all (InfoNCE, van den Oord et al. 2018), mean over statements."""
    import torch

    device = net.device
    with torch.autocast(device.type, torch.bfloat16, enabled=model.multiplies_bfloat16(device.type)):
        statements = late_interaction.token_vectors(net, encoder.tokenize(tok, batch.statements), True)
        texts = late_interaction.token_vectors(net, encoder.tokenize(tok, batch.texts), False)
    logits = late_interaction.similarities(statements, texts) / TEMPERATURE
    for statement, text in batch.ignored:
        logits[statement, text] = -torch.inf
    return torch.nn.functional.cross_entropy(logits, torch.tensor(batch.right, device=device))
