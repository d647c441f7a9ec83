"""Layers that are quantised by GPTQ: the kernel they run on, and plain layers in their place."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.runtime.environment import release_memory
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

KERNELS = "auto_trainable"  # of gptqmodel: the kernels of `auto` on CUDA can neither train nor dequantise


def settings(path: Path) -> dict[str, Any]:
    """The arguments of `from_pretrained` for a checkpoint in a folder; empty if GPTQ did not quantise it."""
    config = path / "config.json"
    raw = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if (raw.get("quantization_config") or {}).get("quant_method") != "gptq":
        return {}
    from transformers import GPTQConfig

    # Only the backend is read from here; bits, groups and everything else are the checkpoint's own.
    return {"quantization_config": GPTQConfig(bits=4, backend=KERNELS)}


def layers(model: "PreTrainedModel") -> dict[str, "torch.nn.Module"]:
    """The quantised layers of a model by name, whatever kernel they run on."""
    if not (library := sys.modules.get("gptqmodel.nn_modules.qlinear")):
        return {}  # its import takes seconds, and without it there are none
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, library.BaseQuantLinear)
    }


def prepare(model: "PreTrainedModel", model_dir: Path) -> None:
    """Make a loaded model's quantised layers ready to train. Raises UserError for a kernel that cannot.

    On a CPU the first pass without gradients would turn them into inference layers for good, and every
    gradient after it would stop at them without a word.
    """
    _forget_frames()
    for name, layer in layers(model).items():
        if not (layer.SUPPORTS_TRAINING and hasattr(layer, "dequantize_weight")):
            raise UserError(
                f"{model_dir}: layer {name} runs on the kernel {type(layer).__name__}, which can neither "
                "train nor be dequantised; install gptqmodel as constraints.txt has it, or take a checkpoint "
                "that is not quantised"
            )
        if hasattr(layer, "linear_mode"):
            layer.linear_mode = "train"


def _forget_frames() -> None:
    # gptqmodel keeps an error of its own import, with it every frame above, and in them the first model.
    library = sys.modules.get("gptqmodel.nn_modules.qlinear.gguf_cpp")
    if error := getattr(library, "_LLAMA_CPP_IMPORT_ERROR", None):
        error.__traceback__ = None


def describe(model: "PreTrainedModel") -> str:
    """What became of a model's quantised layers, in words; empty if it never had one."""
    if left := layers(model):
        return f"{len(left)} quantised layers train on {type(next(iter(left.values()))).__name__}"
    return f"{model.dequantised_layers} quantised layers dequantised" if model.dequantised_layers else ""


def dequantise(model: "PreTrainedModel") -> int:
    """Replace each quantised linear layer by a plain one with the same weights; returns their number."""
    replaced = layers(model)
    for name, layer in replaced.items():
        replace_layer(model, name, plain_weight(layer), layer.bias)
    model.is_quantized = False
    for key in ("quantization_config", "_pre_quantization_dtype"):
        model.config.__dict__.pop(key, None)
    model.hf_quantizer = model.quantization_method = None
    return len(replaced)


def plain_weight(layer: "torch.nn.Module") -> "torch.Tensor":
    """The weight of a linear layer, quantised or not: (outputs, inputs) in float32."""
    # Of the class: on the layer itself gptqmodel may have put a compiled one, for a single call.
    dequantize = getattr(type(layer), "dequantize_weight", None)
    return (dequantize(layer).T if dequantize else layer.weight.detach()).float()


def replace_layer(
    model: "PreTrainedModel", name: str, weight: "torch.Tensor", bias: "torch.Tensor | None"
) -> None:
    """Replace the layer `name` by a plain linear layer of this weight, in the model's dtype."""
    import torch

    with torch.device("meta"):
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    plain.weight = torch.nn.Parameter(weight.to(model.dtype).contiguous(), requires_grad=False)
    if bias is not None:
        plain.bias = torch.nn.Parameter(bias.detach().to(model.dtype), requires_grad=False)
    parent, _, child = name.rpartition(".")
    # Some quantised layers refer to themselves: until Python looks for cycles, their weights would stay.
    model.get_submodule(name).to("meta")
    setattr(model.get_submodule(parent), child, plain)
    release_memory()  # of a model of 1.5 billion weights up to 4 GB
