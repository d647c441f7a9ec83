"""medqa.model: quantised layers that go on training, and 16-bit products on processors that have none."""

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

        def told(first, second, *others, plain=plain, **named):
            if second.shape[-1] > 64 and second.dim() == 2:
                seen.append(first.dtype)
            return plain(first, second, *others, **named)

        monkeypatch.setattr(owner, name, told)
    return seen


@pytest.mark.parametrize("dequantised", [True, False])
def test_it_multiplies_in_float32_and_keeps_its_dtype(
    base: Path, old_processor: None, monkeypatch: pytest.MonkeyPatch, dequantised: bool
) -> None:
    exact = model.load(base, "float32", dequantised=True)
    wide = model.load(base, "bfloat16", dequantised=dequantised)
    ids = torch.arange(100, 150)[None]
    with torch.inference_mode():
        wanted = exact(ids).logits
        seen = factors(monkeypatch)
        logits = wide(ids).logits
    assert set(seen) == {torch.float32} and len(seen) > 14
    assert logits.dtype == wide.dtype == torch.bfloat16
    assert (logits.float() - wanted).abs().max() < 0.05 * wanted.abs().max()


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


def test_a_wide_output_layer_is_taken_in_parts(
    base: Path, old_processor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = model.load(base, "bfloat16", dequantised=True)
    states = torch.randn(1, 40, 128).bfloat16()
    with torch.inference_mode():
        whole = wide.lm_head(states)
        monkeypatch.setattr(model, "WIDE_ROWS", 100)
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
    from medqa.engines import local, tree

    seen, states = [], tree.states
    told = lambda loaded, ids, *rest: seen.append(ids.numel()) or states(loaded, ids, *rest)  # noqa: E731
    monkeypatch.setattr(tree, "states", told)
    engine = local.Transformers(model.load(base, dtype, dequantised=True), model.tokenizer(base), batch_size=2)
    engine.label_probabilities([prompts.ask("What is gout?")], prompts.LABELS)
    assert (seen[0] >= tree.STEADY_TOKENS) == filled
