"""A GGUF file of a tiny Llama with random weights, as llama.cpp's converter writes one."""

from pathlib import Path

import gguf
import numpy as np

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny helper<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, HEADS, MLP, LAYERS = 128, 2, 256, 2


def vocabulary() -> list[str]:
    """The control tokens, then a token for each byte as byte-level BPE writes it, and one of two bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [*CONTROL, *map(chr, shown), *(chr(256 + index) for index, _ in enumerate(hidden)), "ab"]


def write(path: Path, licence: str = "apache-2.0", control: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Write the file, with further control tokens if they are named; returns its weights by GGUF's names."""
    rng = np.random.default_rng(0)
    tokens = [*vocabulary(), *control]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license(licence)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [
        gguf.TokenType.CONTROL if token in (*CONTROL, *control) else gguf.TokenType.NORMAL for token in tokens
    ]
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)  # as SmolLM2 has it: the end of a turn
    writer.add_chat_template(TEMPLATE)
    weights = dict(_weights(rng, len(tokens)))
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _weights(rng: np.random.Generator, tokens: int):
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.05, shape).astype(np.float32)

    yield "token_embd.weight", normal(tokens, WIDTH)
    yield "output_norm.weight", np.ones(WIDTH, np.float32)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", normal(WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            yield f"blk.{layer}.{name}.weight", normal(MLP, WIDTH)
        yield f"blk.{layer}.ffn_down.weight", normal(WIDTH, MLP)
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32)
