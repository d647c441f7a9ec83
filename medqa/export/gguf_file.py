"""A model as one GGUF file, laid out as llama.cpp's converter does: weights, tokenizer, chat template."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.chat import rendering
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    import gguf
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MODEL_TYPES = ("qwen2", "llama")
# llama.cpp's names of pre-tokenizers, by what tokenizer.json has: the expression of a split, or its parts.
SPLITS = ("qwen2", "llama-bpe")
PARTS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}


def check(config: "PretrainedConfig") -> None:
    """Raise UserError for a model that is not written here: another architecture, or scaled positions."""
    if config.model_type not in MODEL_TYPES:
        raise UserError(
            f"--format gguf writes models of the types {', '.join(MODEL_TYPES)}, and this one is of the type "
            f"{config.model_type}; export it with --format merged"
        )
    if (kind := (config.rope_parameters or {}).get("rope_type", "default")) != "default":
        raise UserError(
            f"--format gguf writes no scaled rotary positions ({kind}); export it with --format merged"
        )


def write(model: "PreTrainedModel", tok: "PreTrainedTokenizerBase", path: Path, licence: str) -> None:
    """Write the file, matrices in the model's dtype and vectors in float32. Raises as `check`."""
    import gguf

    check(model.config)
    writer = gguf.GGUFWriter(path, model.config.model_type)
    writer.add_license(licence)
    _add_shape(writer, model)
    _add_tokenizer(writer, tok, model.config.vocab_size)
    for name, weight in _tensors(model):
        data = weight.float().numpy()
        kind = _kind(model.dtype) if data.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(dtype: "torch.dtype") -> "gguf.GGMLQuantizationType":
    import gguf

    name = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[str(dtype).removeprefix("torch.")]
    return gguf.GGMLQuantizationType[name]


def _add_shape(writer: "gguf.GGUFWriter", model: "PreTrainedModel") -> None:
    import gguf

    config = model.config
    kind = _kind(model.dtype).name
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocab_size)


def _tensors(model: "PreTrainedModel") -> Iterator[tuple[str, "torch.Tensor"]]:
    """The weights under llama.cpp's names; a tied output layer is there once, as the embedding."""
    import gguf

    config = model.config
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        ggml_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if ggml_name is None:
            raise UserError(f"--format gguf has no name for the weight {name}; export with --format merged")
        weight = parameter.detach().cpu()
        if config.model_type == "llama" and ".q_proj." in name:
            weight = _pair_rotations(weight, config.num_attention_heads)
        if config.model_type == "llama" and ".k_proj." in name:
            weight = _pair_rotations(weight, config.num_key_value_heads)
        yield ggml_name, weight


def _pair_rotations(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """The rows of each head in llama.cpp's order, in which those that rotate together are neighbours."""
    width = weight.shape[0] // heads
    return weight.view(heads, 2, width // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: "gguf.GGUFWriter", tok: "PreTrainedTokenizerBase", size: int) -> None:
    """The tokenizer with its chat template; ids up to `size` that have no token get a filler."""
    import gguf

    raw = json.loads(tok.backend_tokenizer.to_str())
    tokens = {number: token for token, number in tok.get_vocab().items()}
    added = tok.added_tokens_decoder
    kinds = []
    for number in range(size):
        kind = gguf.TokenType.NORMAL if number in tokens else gguf.TokenType.UNUSED
        if number in added:
            special = added[number].special
            kind = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
        kinds.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(raw, tok.name_or_path))
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    merges = raw["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tok.eos_token_id)
    writer.add_pad_token_id(tok.pad_token_id)
    if tok.bos_token_id is not None:
        writer.add_bos_token_id(tok.bos_token_id)
    writer.add_add_bos_token(False)  # the chat template writes what begins a prompt
    writer.add_chat_template(rendering.template(tok, tok.name_or_path))


def _pre_tokenizer(raw: dict[str, Any], name: str) -> str:
    """llama.cpp's name of a tokenizer's way to split text. Raises UserError for one that has none here."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    whole = raw["pre_tokenizer"] or {}
    parts = whole.get("pretokenizers", [whole])
    expressions = [part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"]
    split_names = {GGUF_PRE_TOKENIZER_SPLITS[split]: split for split in SPLITS}
    kinds = tuple(part.get("type") for part in parts)
    pre_tokenizer = split_names.get(expressions[0]) if expressions else PARTS.get(kinds)
    if raw["model"]["type"] != "BPE" or not pre_tokenizer:
        raise UserError(
            f"{name}: --format gguf writes byte-level BPE as Qwen2, Llama 3, SmolLM and GPT-2 have it, and "
            "this tokenizer splits text another way; export with --format merged"
        )
    return pre_tokenizer
