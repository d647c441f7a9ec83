"""Log-probabilities of target tokens from hidden states, without all logits in memory at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOGITS = 2**24  # computed at once: 64 MB in float32
VOCABULARY_CHUNK = 32768  # for TRL's kernel: the default of TRL


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The log-probability in nats of each target token, and what TRL logs with it, from hidden states.

    `hidden` is (tokens, width), `weight` (vocabulary, width) and frozen, `targets` (tokens,). The gradient of
    log p(target) by a hidden state is weight[target] - Σ p weight. It is computed together with the logits,
    so that one pass over the vocabulary is enough. TRL takes two (trl/kernels/chunked_logprob.py), but its
    kernel is faster where Triton runs. Without gradients there are neither entropy nor mean logits.
    """
    import torch
    from transformers.utils import is_triton_available

    if is_triton_available() and hidden.device.type != "cpu":
        return trl_token_logprobs(hidden, weight, targets)
    device, gradients = hidden.device.type, torch.is_grad_enabled()
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    size = max(1, LOGITS // len(weight))
    with torch.no_grad():
        weight, chunks = weight.to(dtype), zip(hidden.to(dtype).split(size), targets.split(size), strict=True)
        columns = zip(*(_chunk(states, weight, ids, gradients) for states, ids in chunks), strict=True)
        log_probs, is_top1, *slopes = map(torch.cat, columns)
    if not gradients:
        return {"log_probs": log_probs, "is_top1": is_top1}
    hidden, slope = hidden.float(), slopes[0]
    with torch.no_grad():
        entropy = (hidden * slope).sum(-1) - log_probs
        mean_logits = hidden @ weight.mean(0, dtype=torch.float32)
    # This adds 0, whose gradient is the slope.
    log_probs = log_probs + ((hidden - hidden.detach()) * slope).sum(-1)
    return {"log_probs": log_probs, "is_top1": is_top1, "entropy": entropy, "mean_logits": mean_logits}


def trl_token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """As `token_logprobs`, by TRL's kernel."""
    from trl.kernels import ChunkedLogProbFunction

    outputs = ("entropy", "mean_logits", "is_top1")
    log_probs, entropy, _, mean_logits, is_top1 = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, VOCABULARY_CHUNK, None, 1.0, outputs
    )
    return {"log_probs": log_probs, "is_top1": is_top1, "entropy": entropy, "mean_logits": mean_logits}


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor, gradients: bool) -> tuple[Tensor, ...]:
    """Log-probabilities, whether the target is the likeliest token and, with gradients, the slopes."""
    import torch

    logits = hidden @ weight.T
    probs = logits.softmax(-1, dtype=torch.float32)
    top_probs, top = probs.max(-1)
    # Not the logarithm of the target's probability, which may be too small for float32.
    target_logits, top_logits = (logits.gather(1, ids[:, None])[:, 0].float() for ids in (targets, top))
    log_probs, is_top1 = target_logits - top_logits + top_probs.log(), top == targets
    if not gradients:
        return log_probs, is_top1
    probs.neg_()[range(len(targets)), targets] += 1
    return log_probs, is_top1, (probs.to(weight.dtype) @ weight).float()
