"""What only a GPU does, tested without one: devices of tensors, CUDA's errors, dtypes of adapters."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from medqa import dpo, engines, model, records, sft
from medqa.commands import doctor
from medqa.engines import continuous_batching, prefix_tree
from medqa.prefixes import common_prefixes
from medqa.runtime import environment, sections
from medqa.training import fine_tuning

ROWS = [[*range(9), 50], [*range(9), 60, 61], [1, 2, 3]]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two GPUs, as far as torch reports."""
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def faked() -> Any:
    """A small Qwen2 in bfloat16 and the tree of ROWS, on a device that is not the CPU and has no memory.

    An operation on tensors of two devices raises, as it does on a GPU.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 300}
    with torch.device("meta"):
        config = Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2)
        loaded = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    prefix_tree.prepare(loaded)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield loaded, prefix_tree.build(ROWS, common_prefixes(ROWS), "meta", batch_invariant=False)


def test_a_gpu_takes_all_queries_of_a_tree_at_once() -> None:
    long = [[*range(200)], [*range(150), 7]]
    for device, starts in (("meta", [0]), ("cpu", [0, 64, 128, 192])):
        tree = prefix_tree.build(long, [0, 150], device, batch_invariant=False)
        assert [block.start for block in tree.blocks] == starts


@pytest.mark.parametrize("size", [None, 32])
def test_a_pass_over_a_prefix_tree_stays_on_the_gpu(faked: Any, size: int | None) -> None:
    loaded, plan = faked
    if size:  # it could take them in blocks as well
        index = plan.token_index.new_zeros(len(ROWS), 2 * size)
        plan = replace(plan, token_index=index, blocks=[(0, index[:, :size]), (size, index)])
    states = prefix_tree.hidden_states(loaded, plan.ids[None], plan.positions[None], plan)
    logits = prefix_tree.last_logits(loaded, plan, states)
    assert logits.shape == (3, 300) and logits.dtype == torch.bfloat16 and logits.device.type == "meta"


def test_answers_are_written_on_the_gpu(faked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = faked
    sampling = engines.Sampling(temperature=0.7, top_p=1, max_new_tokens=4)
    batch = continuous_batching.ContinuousBatch(loaded, sampling, stops=[0])
    sampled: list[torch.Tensor] = []

    def sample(logits: Any, *rest: Any) -> Any:
        sampled.append(original(logits, *rest))
        return SimpleNamespace(tolist=lambda: [7, 7, 7])

    original = continuous_batching.sample_token
    monkeypatch.setattr(continuous_batching, "sample_token", sample)
    rows = [continuous_batching.Decoding(row, prompt, seed=row) for row, prompt in enumerate(ROWS)]
    assert batch.join(rows) == batch.step() == [] and len(batch.alive) == 3
    assert all(tokens.shape == (3,) and tokens.device.type == "meta" for tokens in sampled)
    assert batch.mask.device.type == "meta" and batch.mask.dtype == torch.bfloat16


@pytest.mark.parametrize(("rank", "device"), [(None, "cuda:0"), ("0", "cuda:0"), ("1", "cuda:1")])
def test_each_process_loads_on_its_own_gpu(
    tiny_base: Path, gpus: None, monkeypatch: pytest.MonkeyPatch, rank: str | None, device: str
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    devices: list[str] = []
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda _, device_map, **__: devices.append(device_map)
    )
    with pytest.raises(AttributeError):  # of the model that was not loaded
        model.load(tiny_base, "bfloat16")
    assert devices == [device]


@pytest.mark.parametrize("kind", ["SFTConfig", "DPOConfig"])
def test_one_process_trains_on_one_of_two_gpus(gpus: None, tmp_path: Path, kind: str) -> None:
    import trl

    args = getattr(trl, kind)(output_dir=str(tmp_path), bf16=False, per_device_train_batch_size=4)
    assert (args.n_gpu, args.train_batch_size) == (2, 8)  # what TRL's DPO refuses and SFT shares among GPUs
    args = fine_tuning.on_one_gpu(args)
    assert (args.n_gpu, args.train_batch_size) == (1, 4)


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
            ),
            True,
        ),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_out_of_memory_errors_of_cuda_are_recognised(error: Exception, ran_out: bool) -> None:
    assert environment.out_of_memory(error) == ran_out


@pytest.mark.parametrize(("tools", "lacks"), [("gcc", False), ("", True)])
def test_doctor_misses_the_compiler_that_training_on_a_gpu_needs(
    gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: str, lacks: bool
) -> None:
    card = SimpleNamespace(name="Some card", total_memory=8e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if tools:
        (tmp_path / tools).touch(mode=0o755)
    device, memory = doctor.accelerator()
    assert device.startswith("cuda:0 Some card, 8.0 GB") and memory == 8
    assert ("needs a C compiler" in device) == lacks


@pytest.mark.parametrize("own", [None, "backend:native"])
def test_segments_of_a_gpus_memory_grow_unless_the_user_sets_another_way(own: str | None) -> None:
    env = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    env |= {"PYTORCH_ALLOC_CONF": own} if own else {}
    settings = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    script = f"from medqa.runtime.environment import set_up; set_up(); {settings}"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (own or "expandable_segments:True")


def test_an_adapter_beside_16_bit_weights_is_in_float32_and_a_small_step_moves_it(
    tiny_base: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=8, target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM")
    fresh = get_peft_model(model.load(tiny_base, "bfloat16", dequantised=True), lora)
    fresh.save_pretrained(tmp_path)
    loaded = model.load(tiny_base, "bfloat16", tmp_path, trainable=True, dequantised=True)
    weights = [weight for weight in loaded.parameters() if weight.requires_grad and weight.any()]
    assert len(weights) == 2 * len(fine_tuning.TARGETS) and {weight.dtype for weight in weights} == {
        torch.float32
    }

    def moved(dtype: torch.dtype) -> float:
        """The share of weights that a step at the real preset's learning rate of DPO changes."""
        before = torch.cat([weight.detach().flatten() for weight in weights]).to(dtype)
        after = before.clone().requires_grad_()
        after.grad = torch.randn_like(after)
        torch.optim.AdamW([after], lr=5e-6).step()
        return float((after != before).float().mean())

    assert moved(torch.float32) > 0.99
    assert moved(torch.bfloat16) < 0.2


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_both_stages_train_on_one_gpu(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    schedule = {"epochs": 1, "learning_rate": 0.01, "batch_size": 1, "micro_batch_size": 1, "max_length": 64}
    schedule |= {"warmup_share": 0, "activation_checkpointing": False, "dequantised": True}
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path))

    def stop(args: Any) -> None:
        raise ZeroDivisionError(type(args).__name__)

    monkeypatch.setattr(fine_tuning, "on_one_gpu", stop)

    def job(params: sections.TrainingParams) -> fine_tuning.TrainingJob:
        out, curve = tmp_path / "out", tmp_path / "curve.tsv"
        return fine_tuning.TrainingJob(stage, tiny_base, params, "float32", 0, out, curve)

    with pytest.raises(ZeroDivisionError, match=f"{stage.upper()}Config"):
        if stage == "sft":
            params = sections.SftParams(**schedule, lora={"r": 4, "alpha": 4, "dropout": 0})
            sft.train(job(params), [records.Example("a", "open", "What?", "That.")])
        else:
            loss = {"beta": 0.1, "loss_type": "sigmoid", "sft_weight": 0, "ld_alpha": None}
            params = sections.DpoParams(**schedule, **loss)
            pair = records.Pair("a", "What?", "That.", "This.", 1.0, 0.0)
            dpo.train(job(params), tiny_base, [pair])
