"""medqa.training.padding_free and token_logprobs: the same numbers as with padding and with all logits."""

import random

import pytest
import torch
from conftest import CORPUS
from trl.trainer.utils import add_fused_lm_head

from medqa.miniature import embedded, scratch
from medqa.training import padding_free, token_logprobs

IGNORED = -100


@pytest.fixture(scope="module", params=["frozen", "trained"])
def net(request):
    """A model whose head is frozen, as beside an adapter, or trained too: then TRL computes the logits."""
    tok = scratch.tokenizer(embedded.textbook(embedded.topics(CORPUS)), 400)
    model = scratch.model(tok, 32, 2, 16, seed=0).eval()
    model.get_output_embeddings().weight.requires_grad_(request.param == "trained")
    return model


def batch(lengths: list[int], seed: int) -> dict[str, torch.Tensor]:
    """Rows of these lengths, padded on the right; the first third of each is a prompt without labels."""
    rng, width = random.Random(seed), max(lengths) + 1
    positions = torch.arange(width).repeat(len(lengths), 1)
    mask = positions < torch.tensor(lengths)[:, None]
    ids = torch.tensor([[rng.randrange(4, 300) for _ in range(width)] for _ in lengths]) * mask
    # Every other row begins as the row before it.
    ids[1::2, : width // 4] = ids[: len(ids) // 2 * 2 : 2, : width // 4]
    prompt = positions < torch.tensor(lengths)[:, None] / 3
    labels = ids.masked_fill(~mask | prompt, IGNORED)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels, "use_cache": False}


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [30, 1, 9, 12, 2, 29, 3, 14], list(range(1, 40))])
def test_numbers_and_gradients_are_those_of_the_padded_batch(net, lengths, monkeypatch) -> None:
    monkeypatch.setattr(token_logprobs, "LOGITS", 7 * 400)  # about seven tokens at once
    outputs, gradients = [], []
    for padding_is_free in (False, True):
        net.forward = type(net).forward.__get__(net)
        add_fused_lm_head(net, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        if padding_is_free:
            padding_free.enable(net)
        outputs.append(net(**batch(lengths, seed=len(lengths)), fused_lm_head=True))
        net.zero_grad()
        outputs[-1].log_probs.sum().backward()
        gradients.append([weight.grad.clone() for weight in net.parameters() if weight.grad is not None])
    padded, result = outputs
    assert result.log_probs.shape == padded.log_probs.shape
    assert torch.equal(result.label_mask, padded.label_mask) and torch.equal(result.is_top1, padded.is_top1)
    for name in ("log_probs", "loss", "entropy", "mean_logits"):
        torch.testing.assert_close(result[name], padded[name], atol=1e-5, rtol=1e-5)
    for gradient, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float32), (100, torch.float32), (1, torch.bfloat16)])
def test_logprobs_and_their_gradients_are_those_of_the_logits(scale, dtype, monkeypatch) -> None:
    """Also where a probability is too small for float32."""
    monkeypatch.setattr(token_logprobs, "LOGITS", 1000)
    hidden, weight, targets = random_head()
    hidden, weight = (scale * hidden).to(dtype).requires_grad_(), weight.to(dtype)
    values = token_logprobs.token_logprobs(hidden, weight, targets)
    values["log_probs"].sum().backward()
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.double().T
    nats = logits.log_softmax(-1)
    expected = {
        "log_probs": nats[range(30), targets],
        "mean_logits": logits.mean(-1),
        "entropy": -(nats.exp() * nats).sum(-1),
    }
    expected["log_probs"].sum().backward()
    absolute, relative = (1e-5 * scale, 1e-5) if dtype == torch.float32 else (0.05 * scale, 0.05)
    for name, value in expected.items():
        torch.testing.assert_close(values[name].double(), value, atol=absolute, rtol=relative)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, atol=relative, rtol=relative)
    assert nats.min() < -1000 or scale == 1
    with torch.no_grad():
        without_gradients = token_logprobs.token_logprobs(hidden, weight, targets)
    assert torch.equal(without_gradients["log_probs"], values["log_probs"])


def test_logprobs_are_those_of_the_kernel_that_trl_has_for_gpus() -> None:
    """Without a GPU it computes the same in PyTorch's operations."""
    hidden, weight, targets = random_head()
    outputs, gradients = [], []
    for compute in (token_logprobs.token_logprobs, token_logprobs.trl_token_logprobs):
        states = hidden.clone().requires_grad_()
        outputs.append(compute(states, weight, targets))
        outputs[-1]["log_probs"].sum().backward()
        gradients.append(states.grad)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def random_head() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (30, 16), the weight of a head (300, 16), and target tokens (30,)."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(count, 16, generator=generator) for count in (30, 300))
    return hidden, weight, torch.randint(0, 300, (30,), generator=generator)


@pytest.mark.parametrize(
    "change", [{"sliding_window": 8}, {"logit_scale": 2.0}, {"layer_types": ["linear_attention"]}]
)
def test_a_model_that_is_special_is_left_as_it_is(net, change, monkeypatch) -> None:
    net.get_output_embeddings().weight.requires_grad_(False)
    for name, value in change.items():
        monkeypatch.setattr(net.config, name, value, raising=False)
    forward = net.forward
    padding_free.enable(net)
    assert net.forward == forward
