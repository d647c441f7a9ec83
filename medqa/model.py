"""Loading models: a directory or a pin, in one dtype, on this device, with or without a LoRA adapter."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medqa import hub, quantised
from medqa.chat import tokenizer as tokenizer
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

WIDE_TOKENS = 32  # from which a product in float32 is the faster one
WIDE_ROWS = 16384  # of a weight that are converted to float32 at a time


def device() -> str:
    """The GPU of this process, its own where several train together, or the CPU where there is none."""
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
) -> "PreTrainedModel | PeftModel":
    """The model in evaluation mode (trainers set training mode), with the adapter on it if one is named.

    `.dequantised_layers` counts the quantised layers that were replaced by plain ones. Raises UserError for a
    directory without weights, a missing adapter, or a quantised layer that can neither train nor be
    dequantised.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = hub.local_path(model_dir)
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), device_map=device(), **quantised.settings(path)
    )
    quantised.prepare(model, model_dir)
    model.dequantised_layers = quantised.dequantise(model) if dequantised else 0
    widen(model)
    return (_with_adapter(model, path, adapter, trainable) if adapter else model).eval()


def _with_adapter(model: "PreTrainedModel", path: Path, adapter: Path, trainable: bool) -> "PeftModel":
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter} holds no adapter; rerun the stage that trains it")
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(
        model, adapter, is_trainable=trainable, torch_device=str(model.device)
    )
    for config in adapted.peft_config.values():
        # Else peft asks the Hub for the base whenever the adapter is saved.
        config.base_model_name_or_path = str(path)
    return adapted


def load_merged(model_dir: Path, dtype: str, adapter: Path | None = None) -> "PreTrainedModel":
    """The model for inference: every linear layer plain, with the adapter added to its weights, if any.

    Weights and adapter are added in float32 and rounded once. A weight that is rounded before lies on the
    grid of 16 bits, and DPO's changes, mostly less than half a step of it, would be lost. Raises as `load`.
    """
    model = load(model_dir, dtype, adapter)
    if adapter is not None:
        merge(model)
        model = model.get_base_model()
    quantised.dequantise(model)
    widen(model)
    return model


def merge(model: "PeftModel") -> None:
    """Replace each layer with a LoRA adapter by a plain one: W + scaling · B A (Hu et al. 2021)."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            (adapter,) = layer.active_adapters
            change = layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float()
            weight = quantised.plain_weight(layer.base_layer) + layer.scaling[adapter] * change
            quantised.replace_layer(model, name, weight, layer.base_layer.bias)


def widen(model: "PreTrainedModel", rows: int = WIDE_ROWS) -> None:
    """On a processor without 16-bit instructions, compute products in float32, `rows` of a weight at a time.

    The weights stay as they are. PyTorch's own products of 16 bits take six times as long there.
    """
    import torch

    if model.device.type != "cpu" or model.dtype == torch.float32 or multiplies_bfloat16("cpu"):
        return
    for layer in model.modules():
        if hasattr(layer, "dequantize_weight"):
            # It dequantises to the dtype of its input.
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))
            layer.register_forward_hook(lambda _, inputs, output: output.to(model.dtype))
        elif isinstance(layer, torch.nn.Linear):
            layer.forward = partial(_wide_product, layer, rows)


def _wide_product(layer: "torch.nn.Linear", rows: int, x: "torch.Tensor") -> "torch.Tensor":
    import torch
    from torch.nn.functional import linear

    if x.dtype == layer.weight.dtype and x.numel() >= WIDE_TOKENS * x.shape[-1]:
        wide = x.float()
        parts = [linear(wide, part.float()).to(x.dtype) for part in layer.weight.split(rows)]
        product = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        return product if layer.bias is None else product + layer.bias
    return linear(x, layer.weight, layer.bias)
