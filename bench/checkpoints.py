"""Checkpoints of random weights in the shapes and formats of real ones, written straight to disk.

The answers of such a model are noise, but its costs are real: sizes, names, dtypes and files are those of
Qwen2.5's checkpoints on the Hub. A shape is an argument, so that a test can use a tiny one.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.miniature import embedded, scratch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

GROUP = 128  # rows of a weight that share a scale, GPTQ's default
SHARD = 2_000_000_000  # bytes per file
CONTROL_ROWS = 293  # of the embedding, which Qwen2.5 reserves for control tokens and padding
DEVIATION = 0.8  # of a logit: 0.02, Qwen's initialiser, at a width of 1,536
ENDING = 8.0  # factor on the end token's row, so that some answers end by themselves
# An int32 packs the zero points of eight columns. AutoGPTQ, which made the Hub's checkpoint, stores 8 - 1.
ZEROS = 0x77777777
CORPUS = Path(__file__).parent.parent / "medqa" / "miniature" / "corpus"


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2 model with tied embeddings.

    `ending` scales the end token's row, `sharpness` is the weight of the last norm. At real size hidden
    states are so similar that the end token is equally likely at every position: with a sharpness of 1,
    greedy answers would all be empty, or sampled ones would all be cut off and make no pair.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int = 151_936
    ending: float = ENDING
    sharpness: float = 1.0

    def linear(self) -> Iterator[tuple[str, int, int]]:
        """Name, inputs and outputs of every linear layer within the blocks."""
        kv = self.width // self.heads * self.kv_heads
        inner = {
            "self_attn.q_proj": (self.width, self.width),
            "self_attn.k_proj": (self.width, kv),
            "self_attn.v_proj": (self.width, kv),
            "self_attn.o_proj": (self.width, self.width),
            "mlp.gate_proj": (self.width, self.mlp),
            "mlp.up_proj": (self.width, self.mlp),
            "mlp.down_proj": (self.mlp, self.width),
        }
        for layer in range(self.layers):
            for name, (inputs, outputs) in inner.items():
                yield f"model.layers.{layer}.{name}", inputs, outputs

    def parameters(self) -> int:
        """Weights that multiply each token: the linear layers and the embedding as the output layer."""
        return sum(inputs * outputs for _, inputs, outputs in self.linear()) + self.vocabulary * self.width


# Qwen2.5-1.5B and Qwen2.5-3B.
BASE = Shape(layers=28, width=1536, heads=12, kv_heads=2, mlp=8960, ending=-17.0, sharpness=4.0)
JUDGE = Shape(layers=36, width=2048, heads=16, kv_heads=2, mlp=11008)


def write(shape: Shape, tokenizer: "PreTrainedTokenizerBase", quantised: bool, seed: int, out: Path) -> None:
    """Write a checkpoint to the folder `out`: as AutoGPTQ does (four bits, float16), or plain in bfloat16."""
    out.mkdir(parents=True)
    tokenizer.save_pretrained(out)
    _write_json(out / "config.json", config(shape, tokenizer, quantised))
    shard: dict[str, torch.Tensor] = {}
    shard_of, total, size = {}, 0, 0
    number = 1
    for name, tensor in _weights(shape, tokenizer, quantised, seed):
        if size and size + tensor.nbytes > SHARD:
            _write_shard(out, number, shard)
            shard, size, number = {}, 0, number + 1
        shard[name] = tensor
        shard_of[name] = number
        total, size = total + tensor.nbytes, size + tensor.nbytes
    _write_shard(out, number, shard)
    _name_shards(out, number, shard_of, total)


def config(shape: Shape, tokenizer: "PreTrainedTokenizerBase", quantised: bool) -> dict[str, Any]:
    """The content of config.json beside Qwen2.5's weights."""
    values = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.mlp,
        "max_position_embeddings": 32768,
        "max_window_layers": shape.layers,
        "model_type": "qwen2",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "float16" if quantised else "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }
    if quantised:
        values["quantization_config"] = {
            "bits": 4,
            "damp_percent": 0.01,
            "desc_act": False,
            "group_size": GROUP,
            "modules_in_block_to_quantize": None,
            "quant_method": "gptq",
            "sym": True,
            "true_sequential": True,
        }
    return values


def tokenizer(vocabulary: int) -> "PreTrainedTokenizerBase":
    """A tokenizer for an embedding of `vocabulary` rows: tokens, and the control tokens in the last 293 rows.

    It encodes like `scratch.tokenizer`, which learns from the embedded corpus. The remaining tokens are two
    words each: no text is encoded into them, but a model can write them.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    topics = embedded.topics(CORPUS)
    first_control = vocabulary - CONTROL_ROWS
    small = scratch.tokenizer(embedded.textbook(topics), min(1500, first_control))
    parts = json.loads(small.backend_tokenizer.to_str())
    small_ids = parts["model"]["vocab"]
    learnt = sorted(set(small_ids) - set(scratch.CONTROL_TOKENS), key=small_ids.get)
    ids = {token: number for number, token in enumerate(learnt)}
    words = [token for token in learnt if token[0] == "Ġ" and token[1:].isalpha()]
    for pair in product(words, words):
        if len(ids) == first_control:
            break
        ids.setdefault("".join(pair), len(ids))
    ids |= {token: first_control + number for number, token in enumerate(scratch.CONTROL_TOKENS)}
    parts["model"]["vocab"] = ids
    for entry in parts["added_tokens"]:
        entry["id"] = ids[entry["content"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        eos_token=small.eos_token,
        pad_token=small.pad_token,
        chat_template=small.chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def _weights(
    shape: Shape, tokenizer: "PreTrainedTokenizerBase", quantised: bool, seed: int
) -> Iterator[tuple[str, "torch.Tensor"]]:
    import torch

    rng = torch.Generator().manual_seed(seed)
    dtype = torch.float16 if quantised else torch.bfloat16
    deviation = DEVIATION / shape.width**0.5

    def normal(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype).normal_(0, deviation, generator=rng)

    rows = normal(shape.vocabulary, shape.width)
    rows[tokenizer.eos_token_id] *= shape.ending
    yield "model.embed_tokens.weight", rows
    for name, inputs, outputs in shape.linear():
        if quantised:
            for part, tensor in _four_bits(inputs, outputs, deviation, rng):
                yield f"{name}.{part}", tensor
        else:
            yield f"{name}.weight", normal(outputs, inputs)
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            yield f"{name}.bias", normal(outputs)
    for layer in range(shape.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", torch.ones(shape.width, dtype=dtype)
    yield "model.norm.weight", torch.full((shape.width,), shape.sharpness, dtype=dtype)


def _four_bits(
    inputs: int, outputs: int, deviation: float, rng: "torch.Generator"
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """A linear layer in GPTQ's format: eight random weights per int32, from 0 to 15 with the zero point 8."""
    import torch

    groups = inputs // GROUP
    spread = (sum((value - 8) ** 2 for value in range(16)) / 16) ** 0.5
    yield "qweight", torch.randint(-(2**31), 2**31, (inputs // 8, outputs), dtype=torch.int32, generator=rng)
    yield "qzeros", torch.full((groups, outputs // 8), ZEROS, dtype=torch.int32)
    yield "scales", torch.full((groups, outputs), deviation / spread, dtype=torch.float16)
    yield "g_idx", torch.arange(inputs, dtype=torch.int32) // GROUP


def _write_shard(out: Path, number: int, tensors: dict[str, "torch.Tensor"]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, out / f"{number}.safetensors", metadata={"format": "pt"})


def _name_shards(out: Path, count: int, shard_of: dict[str, int], total: int) -> None:
    if count == 1:
        (out / "1.safetensors").rename(out / "model.safetensors")
        return
    files = {number: f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)}
    for number, name in files.items():
        (out / f"{number}.safetensors").rename(out / name)
    weights = {name: files[number] for name, number in shard_of.items()}
    _write_json(
        out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weights}
    )


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
