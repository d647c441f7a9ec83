"""Tiny Qwen2 models from nothing: a tokenizer with Qwen's chat format, random weights, and a whole directory.

They stand in for the Hub's models where there is no network and no GPU. They are small, but everything about
them is real: architecture, tokenizer, chat template and checkpoint format are what `from_pretrained` expects.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Qwen2.5's pre-tokenizer: contractions, words with their leading space, single digits, punctuation, white
# space.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MATCHING = 3.0  # times the usual size; of 1, 3 and 5, 3 learnt fastest
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(texts: Sequence[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer of at most `vocabulary` tokens, trained on the texts, with Qwen's control
    tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # The words of the chat format and of the judge have to be single tokens, as they are in Qwen's own
    # tokenizer.
    texts = [*texts, *["system\nuser\nassistant\n 0 1 2 3 4 5 6 7 8 9\n"] * 50]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=CONTROL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def model(tok: "PreTrainedTokenizerFast", width: int, layers: int, head: int, seed: int) -> "PreTrainedModel":
    """A Qwen2 model with random weights: heads `head` wide, an MLP three times as wide, tied embeddings,
    float32.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tok) // 64) * 64,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // head,
        num_key_value_heads=width // head,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tok.pad_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    # On a CPU, eager attention trains rows this short twice as fast as SDPA.
    return Qwen2ForCausalLM._from_config(config, attn_implementation="eager")


def look_for_the_same(model: "PreTrainedModel") -> None:
    """Make queries and keys equal and larger, so that a token attends to its like from the start.

    Comparing two texts, which otherwise takes a tiny model most of its training to discover, begins from
    there.
    """
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(MATCHING)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when all of it is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        yield Path(folder)
        shutil.rmtree(out, ignore_errors=True)
        os.mkdir(out)
        for path in sorted(Path(folder).iterdir()):
            shutil.move(path, out / path.name)
