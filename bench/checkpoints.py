"""Checkpoints of random weights in the shapes and formats of real ones, written straight to disk.

What a model says is noise, what it costs is not: sizes, names, dtypes and files are those of Qwen2.5's
checkpoints on the Hub. A shape is an argument, so that a tiny one can be tried in a second.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.miniature import embedded, scratch

GROUP = 128  # rows of a weight that share a scale, as GPTQ's default is
SHARD = 2_000_000_000  # bytes of a file from which the next is begun
CONTROL_ROOM = 293  # rows of the embedding that Qwen2.5 keeps for control tokens and padding
DEVIATION = 0.8  # of a logit: 0.02, Qwen's initialiser, at a width of 1,536
ENDING = 8.0  # times as long as others is the end token's row, so that some of the answers end by themselves
# An int32 holds the zero points of eight columns. AutoGPTQ, which made the Hub's checkpoint, writes 8 less 1.
ZEROS = 0x77777777
CORPUS = Path(__file__).parent.parent / "medqa" / "miniature" / "corpus"


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2 model with tied embeddings.

    `ending` is how much longer the end token's row is, `sharpness` the weight of the last norm. At real size
    states are so much alike that the end token is as likely at every place: with 1 and any `ending`, greedy
    answers would all be empty, or sampled ones would all be cut off and make no pair.
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
        """Weights that a token is multiplied with: the linear layers and, once, the embedding as the output
        layer.
        """
        return sum(inputs * outputs for _, inputs, outputs in self.linear()) + self.vocabulary * self.width


BASE = Shape(
    layers=28, width=1536, heads=12, kv_heads=2, mlp=8960, ending=-17.0, sharpness=4.0
)  # Qwen2.5-1.5B
JUDGE = Shape(layers=36, width=2048, heads=16, kv_heads=2, mlp=11008)  # Qwen2.5-3B


def write(shape: Shape, tok: Any, quantised: bool, seed: int, out: Path) -> None:
    """Write a checkpoint to the folder `out`: as AutoGPTQ does (four bits, float16), or plain in bfloat16."""
    out.mkdir(parents=True)
    tok.save_pretrained(out)
    _json(out / "config.json", config(shape, tok, quantised))
    files: list[dict[str, Any]] = [{}]
    where, total, held = {}, 0, 0
    for name, tensor in _weights(shape, tok, quantised, seed):
        if held and held + tensor.nbytes > SHARD:
            _shard(out, len(files), files[-1])
            files[-1], held = {}, 0
            files.append({})
        files[-1][name] = tensor
        where[name] = len(files)
        total, held = total + tensor.nbytes, held + tensor.nbytes
    _shard(out, len(files), files[-1])
    _name_shards(out, len(files), where, total)


def config(shape: Shape, tok: Any, quantised: bool) -> dict[str, Any]:
    """config.json as it stands beside Qwen2.5's weights."""
    told = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": tok.pad_token_id,
        "eos_token_id": tok.eos_token_id,
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
        told["quantization_config"] = {
            "bits": 4,
            "damp_percent": 0.01,
            "desc_act": False,
            "group_size": GROUP,
            "modules_in_block_to_quantize": None,
            "quant_method": "gptq",
            "sym": True,
            "true_sequential": True,
        }
    return told


def tokenizer(vocabulary: int) -> Any:
    """A tokenizer for an embedding of `vocabulary` rows: all but the last 293 are tokens, then come control
    tokens.

    It reads as `scratch.tokenizer` does, which learns from the embedded corpus; the tokens that this does not
    fill are two words each, which no text is cut into but which a model can say.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    known = embedded.topics(CORPUS)
    small = scratch.tokenizer(embedded.textbook(known), min(1500, vocabulary - CONTROL_ROOM))
    parts = json.loads(small.backend_tokenizer.to_str())
    first = vocabulary - CONTROL_ROOM
    learnt = [name for name in parts["model"]["vocab"] if name not in scratch.CONTROL_TOKENS]
    told = {name: place for place, name in enumerate(sorted(learnt, key=parts["model"]["vocab"].get))}
    for name in _two_words([name for name in told if name[0] == "Ġ" and name[1:].isalpha()]):
        if len(told) == first:
            break
        told.setdefault(name, len(told))
    parts["model"]["vocab"] = told | {
        name: first + place for place, name in enumerate(scratch.CONTROL_TOKENS)
    }
    for entry in parts["added_tokens"]:
        entry["id"] = parts["model"]["vocab"][entry["content"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        eos_token=small.eos_token,
        pad_token=small.pad_token,
        chat_template=small.chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def _two_words(words: list[str]) -> Iterator[str]:
    return (one + other for one in words for other in words)


def _weights(shape: Shape, tok: Any, quantised: bool, seed: int) -> Iterator[tuple[str, Any]]:
    import torch

    rng = torch.Generator().manual_seed(seed)
    dtype = torch.float16 if quantised else torch.bfloat16
    deviation = DEVIATION / shape.width**0.5

    def normal(*sizes: int) -> Any:
        return torch.empty(sizes, dtype=dtype).normal_(0, deviation, generator=rng)

    rows = normal(shape.vocabulary, shape.width)
    rows[tok.eos_token_id] *= shape.ending
    yield "model.embed_tokens.weight", rows
    for name, inputs, outputs in shape.linear():
        if quantised:
            yield from (
                (f"{name}.{part}", tensor) for part, tensor in _four_bits(inputs, outputs, deviation, rng)
            )
        else:
            yield f"{name}.weight", normal(outputs, inputs)
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            yield f"{name}.bias", normal(outputs)
    for layer in range(shape.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", torch.ones(shape.width, dtype=dtype)
    yield "model.norm.weight", torch.full((shape.width,), shape.sharpness, dtype=dtype)


def _four_bits(inputs: int, outputs: int, deviation: float, rng: Any) -> Iterator[tuple[str, Any]]:
    """A linear layer in GPTQ's format, eight weights an int32, from 0 to 15 at random about the zero point 8."""
    import torch

    groups = inputs // GROUP
    spread = (sum((value - 8) ** 2 for value in range(16)) / 16) ** 0.5
    yield "qweight", torch.randint(-(2**31), 2**31, (inputs // 8, outputs), dtype=torch.int32, generator=rng)
    yield "qzeros", torch.full((groups, outputs // 8), ZEROS, dtype=torch.int32)
    yield "scales", torch.full((groups, outputs), deviation / spread, dtype=torch.float16)
    yield "g_idx", torch.arange(inputs, dtype=torch.int32) // GROUP


def _shard(out: Path, number: int, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, out / f"{number}.safetensors", metadata={"format": "pt"})


def _name_shards(out: Path, count: int, where: dict[str, int], total: int) -> None:
    if count == 1:
        (out / "1.safetensors").rename(out / "model.safetensors")
        return
    names = {number: f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)}
    for number, name in names.items():
        (out / f"{number}.safetensors").rename(out / name)
    weights = {name: names[number] for name, number in where.items()}
    _json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weights})


def _json(path: Path, told: dict[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
