"""Packed batches: rows in lines without padding, and the same numbers as with it."""

import random

import pytest
import torch
from conftest import CORPUS
from trl.trainer.utils import add_fused_lm_head

from medqa.miniature import embedded, scratch
from medqa.training import padding_free

IGNORED = -100


@pytest.fixture(scope="module", params=["frozen", "trained"])
def net(request):
    """A model whose head is frozen, as beside an adapter, or trained too: then TRL computes the logits."""
    tok = scratch.tokenizer(embedded.textbook(embedded.topics(CORPUS)), 400)
    model = scratch.model(tok, 32, 2, 16, seed=0).eval()
    model.get_output_embeddings().weight.requires_grad_(request.param == "trained")
    return model


def batch(lengths: list[int], seed: int) -> dict[str, torch.Tensor]:
    """Rows of so many tokens, padded on the right; the first third of each is a prompt, of which nothing is
    learnt.
    """
    rng, wide = random.Random(seed), max(lengths) + 1
    ids = torch.tensor(
        [[rng.randrange(4, 300) if place < length else 0 for place in range(wide)] for length in lengths]
    )
    mask = torch.tensor([[int(place < length) for place in range(wide)] for length in lengths])
    ids[1::2, : wide // 4] = ids[
        : len(ids) // 2 * 2 : 2, : wide // 4
    ]  # every other row begins as the one before it
    asked = torch.tensor([[place < length / 3 for place in range(wide)] for length in lengths])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(~mask.bool() | asked, IGNORED),
        "use_cache": False,
    }


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [30, 1, 9, 12, 2, 29, 3, 14], list(range(1, 40))])
def test_numbers_and_gradients_are_those_of_the_padded_batch(net, lengths, monkeypatch) -> None:
    monkeypatch.setattr(padding_free, "LOGITS", 7 * 400)  # seven tokens or so at once
    told, gradients = [], []
    for packed in (False, True):
        net.forward = type(net).forward.__get__(net)
        add_fused_lm_head(net, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        if packed:
            padding_free.enable(net)
        out = net(**batch(lengths, seed=len(lengths)), fused_lm_head=True)
        net.zero_grad()
        out.log_probs.sum().backward()
        told.append(out)
        gradients.append([weight.grad.clone() for weight in net.parameters() if weight.grad is not None])
    plain, packed = told
    assert packed.log_probs.shape == plain.log_probs.shape
    assert torch.equal(packed.label_mask, plain.label_mask) and torch.equal(packed.is_top1, plain.is_top1)
    torch.testing.assert_close(packed.log_probs, plain.log_probs, atol=1e-5, rtol=1e-5)
    for name in ("loss", "entropy", "mean_logits"):
        torch.testing.assert_close(packed[name], plain[name], atol=1e-5, rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_tree_has_every_row_and_each_beginning_once() -> None:
    rng = random.Random(1)
    rows = [[rng.randrange(3) for _ in range(rng.randrange(1, 9))] for _ in range(40)]
    paths, tokens = padding_free.tree(rows)
    assert [[rows[row][place] for row, place in (tokens[token] for token in path)] for path in paths] == rows
    assert all(tokens[token][1] == place for path in paths for place, token in enumerate(path))
    assert len(tokens) == len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float32), (100, torch.float32), (1, torch.bfloat16)])
def test_scores_and_their_gradients_are_those_of_the_logits(scale, dtype, monkeypatch) -> None:
    """Also where a probability is too small for float32."""
    monkeypatch.setattr(padding_free, "LOGITS", 1000)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(count, 16, generator=draw) for count in (30, 300))
    hidden, weight = (scale * hidden).to(dtype).requires_grad_(), weight.to(dtype)
    targets = torch.randint(0, 300, (30,), generator=draw)
    scores = padding_free.score(hidden, weight, targets)
    scores["log_probs"].sum().backward()
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.double().T
    nats = logits.log_softmax(-1)
    nats[range(30), targets].sum().backward()
    near, share = (1e-5 * scale, 1e-5) if dtype == torch.float32 else (0.05 * scale, 0.05)
    entropy = -(nats.exp() * nats).sum(-1)
    for name, value in (
        ("log_probs", nats[range(30), targets]),
        ("mean_logits", logits.mean(-1)),
        ("entropy", entropy),
    ):
        torch.testing.assert_close(scores[name].double(), value, atol=near, rtol=share)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, atol=share, rtol=share)
    assert nats.min() < -1000 or scale == 1
    with torch.no_grad():
        assert torch.equal(padding_free.score(hidden, weight, targets)["log_probs"], scores["log_probs"])


def test_scores_are_those_of_the_kernel_that_trl_has_for_gpus() -> None:
    """Which without a GPU computes the same in PyTorch's own operations."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(count, 16, generator=draw) for count in (30, 300))
    targets = torch.randint(0, 300, (30,), generator=draw)
    outputs, gradients = [], []
    for scored in (padding_free.score, padding_free._kernel):
        states = hidden.clone().requires_grad_()
        outputs.append(scored(states, weight, targets))
        outputs[-1]["log_probs"].sum().backward()
        gradients.append(states.grad)
    assert outputs[0].keys() == outputs[1].keys()
    for name in outputs[0]:
        torch.testing.assert_close(outputs[0][name], outputs[1][name])
    torch.testing.assert_close(*gradients)


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
