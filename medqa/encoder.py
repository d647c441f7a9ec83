"""The encoder: each text as a unit vector, the mean of a model's last hidden states."""

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medqa import chat, hub, model, quantised

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 512  # of one pass, padding included; on a CPU more are slower

Embed = Callable[[Sequence[str]], np.ndarray]  # texts to their unit vectors, (texts, width)


def embed(model_dir: Path, texts: Sequence[str]) -> np.ndarray:
    """The unit vector of each text, (texts, width) in float32; zeros for a text without tokens.

    It is the mean of the last hidden states over the text's tokens, divided by its length: the pooling of
    sentence-transformers (Reimers and Gurevych 2019). A text is cut at the model's context. Its vector does
    not depend on the other texts, but for 1e-6. The model is in memory during the call alone. Raises
    UserError as `hub.local_path`.
    """
    distinct = list(dict.fromkeys(texts))
    net, rows = load(model_dir), tokenize(load_tokenizer(model_dir), distinct)
    vectors = np.zeros((len(distinct), net.config.get_text_config().hidden_size), dtype=np.float32)
    for batch in _batches([len(row) for row in rows]):
        vectors[batch] = _mean_states(net, [rows[number] for number in batch])
    del net
    gc.collect()  # a model refers to itself
    numbers = {text: number for number, text in enumerate(distinct)}
    return vectors[[numbers[text] for text in texts]]


def load(model_dir: Path) -> "PreTrainedModel":
    """The model without its head, in float32: what its layers add up to in 16 bits depends on the batch."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = hub.local_path(model_dir)
    net = AutoModel.from_pretrained(
        path, dtype=torch.float32, device_map=model.device(), **quantised.settings(path)
    )
    quantised.prepare(net, model_dir)
    quantised.dequantise(net)
    return net.eval()


def load_tokenizer(model_dir: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer, whose `model_max_length` is the model's context."""
    from transformers import AutoConfig, AutoTokenizer

    path = hub.local_path(model_dir)
    tok = AutoTokenizer.from_pretrained(path)
    if limit := chat.context(AutoConfig.from_pretrained(path).to_dict(), tok.model_max_length):
        tok.model_max_length = limit
    return tok


def tokenize(tok: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, at most as many as the model's context has."""
    return tok(list(texts), truncation=True).input_ids if texts else []


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of the rows that have tokens, those of like length together."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Rows come by length: the next one is the longest of its batch.
        if batch and lengths[number] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        if lengths[number]:
            batch.append(number)
    if batch:
        yield batch


def _mean_states(net: "PreTrainedModel", rows: Sequence[list[int]]) -> "torch.Tensor":
    """The unit vectors of rows of tokens, (rows, width), on the CPU."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(net.device)
    lengths = torch.tensor([len(row) for row in rows], device=net.device)
    mask = torch.arange(ids.shape[1], device=net.device) < lengths[:, None]
    with torch.inference_mode():
        states = net(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        means = (states * mask[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(means, dim=-1).cpu()
