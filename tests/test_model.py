"""medqa.model: quantised layers that stay trainable, and 16-bit products on processors that have none."""

from pathlib import Path

import pytest
import torch

from bench import checkpoints
from medqa import model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "base"
    shape = checkpoints.Shape(layers=2, width=128, heads=2, kv_heads=2, mlp=384, vocabulary=1024)
    checkpoints.write(shape, checkpoints.tokenizer(shape.vocabulary), quantised=True, seed=0, out=out)
    return out


@pytest.fixture
def old_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


def factors(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes of what is multiplied with the weights of plain and of quantised layers, as they come."""
    seen: list[torch.dtype] = []
    for owner, name in ((torch.nn.functional, "linear"), (torch, "matmul")):
        plain = getattr(owner, name)

        def recorded(first, second, *args, plain=plain, **settings):
            if second.shape[-1] > 64 and second.dim() == 2:
                seen.append(first.dtype)
            return plain(first, second, *args, **settings)

        monkeypatch.setattr(owner, name, recorded)
    return seen


@pytest.mark.parametrize("dequantised", [True, False])
def test_it_multiplies_in_float32_and_keeps_its_dtype(
    base: Path, old_processor: None, monkeypatch: pytest.MonkeyPatch, dequantised: bool
) -> None:
    exact = model.load(base, "float32", dequantised=True)
    wide = model.load(base, "bfloat16", dequantised=dequantised)
    ids = torch.arange(100, 150)[None]
    with torch.inference_mode():
        expected = exact(ids).logits
        seen = factors(monkeypatch)
        logits = wide(ids).logits
    assert set(seen) == {torch.float32} and len(seen) > 14
    assert logits.dtype == wide.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_few_tokens_are_multiplied_as_they_are(
    base: Path, old_processor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = model.load(base, "bfloat16", dequantised=True)
    seen = factors(monkeypatch)
    with torch.inference_mode():
        wide(torch.arange(100, 110)[None])
    assert set(seen) == {torch.bfloat16}


def test_float32_is_left_alone(base: Path, old_processor: None) -> None:
    assert "forward" not in vars(model.load(base, "float32", dequantised=True).lm_head)


def test_a_wide_output_layer_is_multiplied_in_parts(base: Path, old_processor: None) -> None:
    wide = model.load(base, "bfloat16", dequantised=True)
    states = torch.randn(1, 40, 128).bfloat16()
    with torch.inference_mode():
        whole = wide.lm_head(states)
        model.widen(wide, rows=100)
        assert torch.equal(wide.lm_head(states), whole)


def test_gradients_pass_quantised_layers_after_a_pass_without_them(base: Path) -> None:
    def gradient(before: bool) -> torch.Tensor:
        loaded = model.load(base, "float32")
        ids = torch.arange(100, 150)[None]
        if before:
            with torch.no_grad():
                loaded(ids)
        loaded.train()
        states = loaded.get_input_embeddings()(ids).detach().requires_grad_()
        loaded(inputs_embeds=states).logits.logsumexp(-1).sum().backward()
        return states.grad

    assert torch.equal(gradient(before=True), gradient(before=False))


@pytest.mark.parametrize(("dtype", "filled"), [("float32", True), ("bfloat16", False)])
def test_passes_are_filled_up_only_where_that_makes_bits_equal(
    base: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, filled: bool
) -> None:
    from medqa import prompts
    from medqa.engines import Request, prefix_tree, transformers_engine

    seen, states = [], prefix_tree.hidden_states
    recorded = lambda loaded, ids, *rest: seen.append(ids.numel()) or states(loaded, ids, *rest)  # noqa: E731
    monkeypatch.setattr(prefix_tree, "hidden_states", recorded)
    engine = transformers_engine.TransformersEngine(
        model.load(base, dtype, dequantised=True), model.tokenizer(base), batch_size=2
    )
    list(engine.label_probabilities([Request("gout", prompts.ask("What is gout?"))], prompts.LABELS))
    assert (seen[0] >= prefix_tree.INVARIANT_TOKENS) == filled


def test_merging_in_16_bits_keeps_what_is_less_than_a_weights_last_bit(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from medqa.training import fine_tuning

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=fine_tuning.TARGETS, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = get_peft_model(model.load(base, "float32"), lora)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.mul_(1e-3)
    adapted.save_pretrained(tmp_path / "adapter")
    exact, plain = (model.load_merged(base, "float32", adapter) for adapter in (tmp_path / "adapter", None))
    short, rounded = (
        model.load_merged(base, "bfloat16", adapter) for adapter in (tmp_path / "adapter", None)
    )
    weights = [
        net.model.layers[0].mlp.up_proj.weight.float().flatten() for net in (exact, plain, short, rounded)
    ]
    change = weights[0] - weights[1]
    assert 0 < change.abs().median() < weights[1].abs().median() / 2**9
    assert ((weights[2] - weights[3]) @ change / (change @ change)).item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("dequantised", [True, False])
def test_merging_adds_what_peft_adds(base: Path, tmp_path: Path, dequantised: bool) -> None:
    from peft import LoraConfig, get_peft_model

    from medqa.training import fine_tuning

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=fine_tuning.TARGETS, init_lora_weights=False)
    get_peft_model(model.load(base, "float32"), lora).save_pretrained(tmp_path)
    expected = model.load(base, "float32", tmp_path, dequantised=True).merge_and_unload()
    merged = model.load(base, "float32", tmp_path, dequantised=dequantised)
    model.merge(merged)
    ids = torch.arange(100, 150)[None]
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, expected(ids).logits, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())
