"""Tiny Qwen2 models from scratch: random weights, and a tokenizer with Qwen's chat format.

They replace the Hub's models where there is no network and no GPU. They are small, but everything about them
is real: architecture, tokenizer, chat template and checkpoint format are what `from_pretrained` expects.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Qwen2.5's pre-tokenizer: contractions, words with their leading space, digits, punctuation, white space.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QUERY_SCALE = 3.0  # times the usual size; of 1, 3 and 5, 3 learnt fastest
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(texts: Sequence[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer of at most `vocabulary` tokens, with Qwen's control tokens."""
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
    # The words of the chat format and of the judge have to be single tokens, as in Qwen's own tokenizer.
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
    """A float32 Qwen2 with random weights: heads `head` wide, an MLP 3 × `width` wide, tied embeddings."""
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


def tie_keys_to_queries(model: "PreTrainedModel") -> None:
    """Make keys equal to larger queries, so that each token attends to equal tokens from the start.

    To compare two texts, which a tiny model otherwise spends most of its training to discover, begins there.
    """
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(QUERY_SCALE)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
