"""medqa.quantised: a model runs on a gptqmodel kernel that trains and can be dequantised, on any device."""

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_engine import requests

from bench import checkpoints
from medqa import model, prompts, quantised
from medqa.engines import loading
from medqa.runtime.errors import UserError
from medqa.training import fine_tuning

SHAPE = checkpoints.Shape(layers=2, width=128, heads=2, kv_heads=2, mlp=384, vocabulary=1024)
LAYERS = 7 * SHAPE.layers
LORA = {"r": 4, "target_modules": fine_tuning.TARGETS, "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "base"
    checkpoints.write(SHAPE, checkpoints.tokenizer(SHAPE.vocabulary), quantised=True, seed=0, out=out)
    return out


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """gptqmodel's choice for CUDA by backend, group size and symmetry, as if all kernels were compiled."""
    from gptqmodel import BACKEND
    from gptqmodel.models._const import DEVICE
    from gptqmodel.quantization import FORMAT, METHOD
    from gptqmodel.utils import importer

    for kernel in importer.AUTO_BACKEND_KERNEL_MAPPING[METHOD.GPTQ][FORMAT.GPTQ].values():
        monkeypatch.setattr(kernel, "cached_validate_once", lambda: (True, None))
        if DEVICE.CUDA in kernel.SUPPORTS_DEVICES:
            monkeypatch.setattr(kernel, "validate_device", lambda device: None)
    importer.clear_validation_cache()
    shared = {
        "bits": 4,
        "desc_act": False,
        "device": DEVICE.CUDA,
        "pack_dtype": torch.int32,
        "dtype": torch.bfloat16,
    }
    yield lambda backend, group, sym: importer.select_quant_linear(
        backend=BACKEND(backend),
        group_size=group,
        sym=sym,
        format=FORMAT.GPTQ,
        quant_method=METHOD.GPTQ,
        **shared,
    )
    importer.clear_validation_cache()


@pytest.fixture
def running_on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a checkpoint on the kernel of a class, whatever gptqmodel would choose."""
    from optimum.gptq import quantizer

    return lambda kernel: monkeypatch.setattr(quantizer, "hf_select_quant_linear_v2", lambda **_: kernel)


def inference_only(**changes: Any) -> type:
    """A kernel that loads as the CPU's does, and is changed in some attributes."""
    from gptqmodel.nn_modules.qlinear.torch_aten_kernel import TorchAtenLinear

    # A kernel has to set each of these itself.
    own = {name: value for name, value in vars(TorchAtenLinear).items() if name.startswith("SUPPORTS")}
    return type("MarlinLinear", (TorchAtenLinear,), own | changes)


def logits(loaded: Any) -> torch.Tensor:
    with torch.inference_mode():
        return loaded(torch.arange(100, 150)[None]).logits


@pytest.mark.parametrize("group", [128, 32])
@pytest.mark.parametrize("sym", [True, False])
def test_on_cuda_it_can_train_and_be_dequantised(on_cuda: Any, group: int, sym: bool) -> None:
    kernel = on_cuda(quantised.KERNELS, group, sym)
    assert kernel.SUPPORTS_TRAINING and hasattr(kernel, "dequantize_weight")


@pytest.mark.parametrize("group", [128, 32])
@pytest.mark.parametrize("sym", [True, False])
def test_what_gptqmodel_takes_by_itself_can_do_neither(on_cuda: Any, group: int, sym: bool) -> None:
    kernel = on_cuda("auto", group, sym)
    assert not kernel.SUPPORTS_TRAINING and not hasattr(kernel, "dequantize_weight")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_that_cuda_gets_has_the_same_weights(
    base: Path, on_cuda: Any, running_on: Any, dtype: str
) -> None:
    expected = logits(model.load(base, dtype, dequantised=True))
    running_on(on_cuda(quantised.KERNELS, 128, True))
    loaded = model.load(base, dtype, dequantised=True)
    assert torch.equal(logits(loaded), expected)
    assert loaded.dequantised_layers == LAYERS and not quantised.layers(loaded)
    assert quantised.describe(loaded) == f"{LAYERS} quantised layers dequantised"
    assert not loaded.is_quantized and not hasattr(loaded.config, "quantization_config")


def test_what_was_quantised_takes_no_memory_any_more(base: Path, on_cuda: Any, running_on: Any) -> None:
    running_on(on_cuda(quantised.KERNELS, 128, True))
    loaded = model.load(base, "bfloat16")
    weights = [weakref.ref(layer.qweight) for layer in quantised.layers(loaded).values()]
    gc.disable()  # what refers to itself would stay
    try:
        assert quantised.dequantise(loaded) == LAYERS == len(weights)
        assert not any(weight() is not None for weight in weights)
    finally:
        gc.enable()


def test_the_kernel_that_cuda_gets_trains_as_the_one_of_the_cpu(
    base: Path, on_cuda: Any, running_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    # It imports Triton in training, too, and does not use it there.
    triton = SimpleNamespace(QuantLinearFunction=None)
    monkeypatch.setitem(sys.modules, "gptqmodel.nn_modules.triton_utils.dequant", triton)

    def gradients() -> tuple[str, torch.Tensor]:
        adapted = get_peft_model(model.load(base, "float32"), LoraConfig(**LORA)).train()
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        torch.manual_seed(0)
        for weight in weights:  # peft draws them in the dtype of the kernel's scales
            torch.nn.init.normal_(weight, std=0.01)
        with torch.compiler.set_stance("force_eager"):
            adapted(torch.arange(100, 150)[None]).logits.logsumexp(-1).sum().backward()
        return quantised.describe(adapted), torch.cat([weight.grad.flatten() for weight in weights])

    _, expected = gradients()
    running_on(on_cuda(quantised.KERNELS, 128, True))
    named, same = gradients()
    assert named == f"{LAYERS} quantised layers train on TritonV2Linear"
    assert expected.all() and torch.equal(same, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_cpu_nothing_changes(base: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    loaded = model.load(base, dtype)
    named = quantised.describe(loaded)
    monkeypatch.setattr(quantised, "KERNELS", "auto")
    plain = model.load(base, dtype)
    assert torch.equal(logits(loaded), logits(plain))
    assert named == quantised.describe(plain) == f"{LAYERS} quantised layers train on TorchAtenLinear"


@pytest.mark.parametrize("dequantised", [True, False])
@pytest.mark.parametrize("lacks", [{"SUPPORTS_TRAINING": False}, {"dequantize_weight": property()}])
def test_a_kernel_for_inference_alone_is_named(
    base: Path, running_on: Any, lacks: dict, dequantised: bool
) -> None:
    running_on(inference_only(**lacks))
    with pytest.raises(
        UserError, match=r"layer model\.layers\.0\.\S+_proj runs on the kernel MarlinLinear, .*; install"
    ):
        model.load(base, "float32", dequantised=dequantised)


def test_the_setting_reaches_the_loader_of_every_quantised_model_and_no_other(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapter, plain = tmp_path / "adapter", tmp_path / "plain"
    get_peft_model(model.load(base, "float32"), LoraConfig(**LORA)).save_pretrained(adapter)
    checkpoints.write(SHAPE, checkpoints.tokenizer(SHAPE.vocabulary), quantised=False, seed=0, out=plain)
    seen: list[str | None] = []
    load = AutoModelForCausalLM.from_pretrained

    def recorded(path: Path, quantization_config: Any = None, **settings: Any) -> Any:
        seen.append(quantization_config and quantization_config.backend)
        return load(path, quantization_config=quantization_config, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", recorded)
    model.load(base, "float32", adapter, trainable=True)
    for judge in (base, plain):
        engine = loading.load_transformers(judge, None, "bfloat16", batch_size=2)
        list(engine.label_probabilities(requests(["What is gout?"]), prompts.LABELS))
        assert not quantised.layers(engine.model)
    loading.load_transformers(base, adapter, "float32", batch_size=2)
    assert seen == ["auto_trainable", "auto_trainable", None, "auto_trainable"]
    assert quantised.describe(model.load(plain, "float32", dequantised=True)) == ""


def test_the_checkpoints_own_numbers_are_kept(base: Path) -> None:
    own = model.load(base, "float32").config.quantization_config
    assert (own.bits, own.group_size, own.sym, own.desc_act, own.damp_percent) == (4, 128, True, False, 0.01)


@pytest.mark.parametrize("dequantised", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
def test_training_reports_once_what_became_of_the_base(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, dequantised: bool, adapted: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    if adapted:
        get_peft_model(model.load(base, "float32"), LoraConfig(**LORA)).save_pretrained(tmp_path)
    params = SimpleNamespace(dequantised=dequantised, max_length=16)
    became = "dequantised" if dequantised else "train on TorchAtenLinear"
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        job = fine_tuning.TrainingJob("sft", base, params, "float32", 0, tmp_path, tmp_path)
        fine_tuning.load(job, tmp_path if adapted else None)
    assert capfd.readouterr().err == f"sft: base: {LAYERS} quantised layers {became}\n"
