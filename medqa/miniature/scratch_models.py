"""Model directories of tiny models: a base that is quantised, and a judge."""

import math
from pathlib import Path

from medqa.miniature import judge_training, scratch, training_text
from medqa.miniature.quantise import quantise
from medqa.miniature.token_rows import chunk_documents
from medqa.miniature.train_scratch import train
from medqa.runtime.folders import atomic_folder
from medqa.runtime.model_sections import ScratchJudge, ScratchModel

PASSES = 4  # orders of the documents before the first one is used again
CALIBRATION_ROWS = 48  # for GPTQ
VALIDATION_EXAMPLES = 1000


def make_base(source: ScratchModel, corpus: Path, seed: int, out: Path) -> list[float]:
    """Train a tiny base model on documents and chats, quantise it to four bits, and write it to `out`."""
    text = training_text.load(source.text, corpus, seed)
    tok = scratch.tokenizer(text.tokenizer_texts, source.vocabulary)
    chats = tok.apply_chat_template(text.chats, tokenize=False)
    documents = [ids + [tok.pad_token_id] for ids in tok([*text.documents, *chats]).input_ids]
    tokens_needed = source.steps * source.batch_size * source.max_length
    passes = min(PASSES, math.ceil(tokens_needed / sum(map(len, documents))))
    rows = chunk_documents(documents, source.max_length, passes, seed)
    base = scratch.model(tok, source.width, source.layers, source.head, seed)
    losses = train(base, rows, source, seed, "base")
    with atomic_folder(out) as folder:
        quantise(base, tok, [tok.decode(row.ids) for row in rows[:CALIBRATION_ROWS]], folder)
    return losses


def make_judge(source: ScratchJudge, corpus: Path, seed: int, out: Path) -> list[float]:
    """Train a tiny judge on corrupted answers, and write it to `out` with its validation examples."""
    text = training_text.load(source.text, corpus, seed)
    tok = scratch.tokenizer(text.tokenizer_texts, source.vocabulary)
    rows, validation = judge_training.make_rows(source, tok, text, VALIDATION_EXAMPLES, seed)
    judge = scratch.model(tok, source.width, source.layers, source.head, seed)
    scratch.tie_keys_to_queries(judge)
    losses = train(judge, rows, source, seed, "judge")
    judge_training.save(out, judge, tok, validation, source.batch_size)
    return losses
