"""Loading models: a model directory or a pin, in one dtype, on the device there is, with or without a LoRA
adapter.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from medqa import hub
from medqa.chat import tokenizer as tokenizer
from medqa.runtime.errors import UserError

KERNELS = "auto_trainable"  # of gptqmodel: what `auto` takes on CUDA can neither train nor dequantise

WIDE_TOKENS = 32  # from which a product in float32 is the faster one
WIDE_ROWS = 16384  # of a weight that are widened at once


def device() -> str:
    """The GPU of this process, or the CPU where there is none: of processes that train together, each has its
    own.
    """
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device has instructions for bfloat16."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def load(
    model_dir: Path,
    dtype: str,
    adapter: Path | None = None,
    trainable: bool = False,
    dequantised: bool = False,
) -> Any:
    """The model in evaluation mode (training mode left to trainers), with the adapter on it if one is given.

    `.dequantised_layers` counts its quantised layers that plain ones replaced. Raises UserError for a
    directory without weights, an adapter that is not there, or a quantised layer that can neither train nor
    be dequantised.
    """
    import torch
    from transformers import AutoModelForCausalLM, GPTQConfig
    from transformers.utils import logging as bars

    bars.disable_progress_bar()
    path = hub.local_path(model_dir)
    # Only the backend is taken from here; bits, groups and all else are the checkpoint's own.
    kernels = {"quantization_config": GPTQConfig(bits=4, backend=KERNELS)} if is_gptq(path) else {}
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), device_map=device(), **kernels
    )
    _forget_frames()
    _check_kernels(model, model_dir)
    model.dequantised_layers = dequantise(model) if dequantised else 0
    train_only(model)
    widen(model)
    if adapter is not None:
        if not (adapter / "adapter_model.safetensors").is_file():
            raise UserError(f"{adapter} holds no adapter; rerun the stage that trains it")
        from peft import PeftModel

        model = PeftModel.from_pretrained(
            model, adapter, is_trainable=trainable, torch_device=str(model.device)
        )
        for config in model.peft_config.values():
            config.base_model_name_or_path = str(
                path
            )  # else peft asks the Hub for it whenever the adapter is saved
    return model.eval()


def load_merged(model_dir: Path, dtype: str, adapter: Path | None = None) -> Any:
    """The model for inference: every linear layer whole, with the adapter added to its weights if one is
    given.

    Weights and adapter are added in float32 and rounded once. Rounded before, a weight lies on the grid of 16
    bits, and what DPO changes, mostly less than half a step of it, would be lost. Raises as `load` does.
    """
    loaded = load(model_dir, dtype, adapter)
    if adapter is not None:
        merge(loaded)
        loaded = loaded.get_base_model()
    dequantise(loaded)
    widen(loaded)
    return loaded


def merge(model: Any) -> None:
    """Replace each layer with a LoRA adapter by a plain one: W + scaling · B A (Hu et al. 2021)."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            (adapter,) = layer.active_adapters
            change = layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float()
            weight = whole_weight(layer.base_layer) + layer.scaling[adapter] * change
            replace(model, name, weight, layer.base_layer.bias)


def whole_weight(layer: Any) -> Any:
    """The weight of a linear layer, quantised or not: (outputs, inputs) in float32."""
    # Of the class: on the layer itself gptqmodel may have put a compiled one, for a single call.
    read = getattr(type(layer), "dequantize_weight", None)
    return (read(layer).T if read else layer.weight.detach()).float()


def replace(model: Any, name: str, weight: Any, bias: Any) -> None:
    """Put a plain linear layer of this weight, in the model's dtype, in the place of the layer `name`."""
    import torch

    with torch.device("meta"):
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    plain.weight = torch.nn.Parameter(weight.to(model.dtype).contiguous(), requires_grad=False)
    if bias is not None:
        plain.bias = torch.nn.Parameter(bias.detach().to(model.dtype), requires_grad=False)
    parent, _, child = name.rpartition(".")
    # Some quantised layers hold themselves: until Python looks for cycles, their weights would take memory.
    model.get_submodule(name).to("meta")
    setattr(model.get_submodule(parent), child, plain)


def is_gptq(path: Path) -> bool:
    """Whether the checkpoint in a folder is quantised by GPTQ."""
    config = path / "config.json"
    raw = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return (raw.get("quantization_config") or {}).get("quant_method") == "gptq"


def quantised_layers(model: Any) -> dict[str, Any]:
    """The quantised layers of a model by name, whatever kernel they run on."""
    if not (library := sys.modules.get("gptqmodel.nn_modules.qlinear")):
        return {}  # its import takes seconds, and without it there is none
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, library.BaseQuantLinear)
    }


def _check_kernels(model: Any, model_dir: Path) -> None:
    for name, layer in quantised_layers(model).items():
        if not (layer.SUPPORTS_TRAINING and hasattr(layer, "dequantize_weight")):
            raise UserError(
                f"{model_dir}: layer {name} runs on the kernel {type(layer).__name__}, which can neither train nor be "
                "dequantised; install gptqmodel as constraints.txt has it, or take a checkpoint that is not quantised"
            )


def quantisation(model: Any) -> str:
    """What became of a model's quantised layers, in words; empty if it never had one."""
    if left := quantised_layers(model):
        return f"{len(left)} quantised layers train on {type(next(iter(left.values()))).__name__}"
    return f"{model.dequantised_layers} quantised layers dequantised" if model.dequantised_layers else ""


def dequantise(model: Any) -> int:
    """Replace each quantised linear layer by a plain one with the weights that it stands for; how many there
    were.
    """
    layers = quantised_layers(model)
    for name, layer in layers.items():
        replace(model, name, whole_weight(layer), layer.bias)
    model.is_quantized = False
    for key in ("quantization_config", "_pre_quantization_dtype"):
        model.config.__dict__.pop(key, None)
    model.hf_quantizer = model.quantization_method = None
    return len(layers)


def _forget_frames() -> None:
    # gptqmodel keeps an error of its own import: with it every frame above, and in them the first model for
    # ever.
    kept = sys.modules.get("gptqmodel.nn_modules.qlinear.gguf_cpp")
    if error := getattr(kept, "_LLAMA_CPP_IMPORT_ERROR", None):
        error.__traceback__ = None


def train_only(model: Any) -> None:
    """Keep quantised layers able to train: the first pass without gradients would turn them into inference
    layers.

    On a CPU gptqmodel swaps their weights for good then, and every gradient after that stops at them without
    a word.
    """
    for layer in model.modules():
        if hasattr(layer, "linear_mode"):
            layer.linear_mode = "train"


def widen(model: Any) -> None:
    """Where a processor has no instructions for 16 bits, take products in float32, a layer at a time.

    The weights stay as they are. PyTorch's own products of 16 bits take six times as long there.
    """
    import torch

    if model.device.type != "cpu" or model.dtype == torch.float32 or multiplies_bfloat16("cpu"):
        return
    for layer in model.modules():
        if hasattr(layer, "dequantize_weight"):
            # It dequantises to the dtype of what it is given.
            layer.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))
            layer.register_forward_hook(lambda _, given, out: out.to(model.dtype))
        elif isinstance(layer, torch.nn.Linear):
            layer.forward = partial(_wide, layer)


def _wide(layer: Any, x: Any) -> Any:
    import torch
    from torch.nn.functional import linear

    if x.dtype == layer.weight.dtype and x.numel() >= WIDE_TOKENS * x.shape[-1]:
        given = x.float()
        outs = [linear(given, part.float()).to(x.dtype) for part in layer.weight.split(WIDE_ROWS)]
        out = torch.cat(outs, -1) if len(outs) > 1 else outs[0]
        return out if layer.bias is None else out + layer.bias
    return linear(x, layer.weight, layer.bias)
