"""How a token is sampled: with noise that depends on the sample, the step and the token alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medqa.engines.base import Sampling

if TYPE_CHECKING:
    from torch import Tensor

TOP_TOKENS = 64  # tokens that top-p looks at first; at more only if these hold less than top_p


def sample_token(
    logits: Tensor,
    sampling: Sampling,
    seeds: Tensor,
    steps: Tensor,
    top_tokens: int = TOP_TOKENS,
) -> Tensor:
    """A token per row of logits (rows, vocabulary), from its seed and the number of tokens before it.

    Temperature, then top-p as the logits warpers of transformers do it: a token stays if the likelier tokens
    hold less than `top_p` together. Temperature 0 takes the likeliest token. `top_tokens` changes no result.
    """
    import torch

    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / sampling.temperature
    total = scores.logsumexp(-1, keepdim=True)
    vocabulary = scores.shape[1]
    count = vocabulary if sampling.top_p == 1 else min(vocabulary, top_tokens)
    while True:
        top, tokens = scores.topk(count)
        shares = (top - total).exp()
        before = shares.cumsum(-1) - shares
        if count == vocabulary or bool((before[:, -1] >= sampling.top_p).all()):
            break
        count = min(vocabulary, 8 * count)
    noisy = top + gumbel_noise(seeds, steps, tokens)
    if sampling.top_p < 1:
        # The likeliest token always stays.
        noisy[:, 1:] = noisy[:, 1:].masked_fill(before[:, 1:] >= sampling.top_p, -torch.inf)
    return tokens.gather(1, noisy.argmax(-1, keepdim=True))[:, 0]


def gumbel_noise(seeds: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise (float32) as a pure function of seed, step and token.

    The arg-max of logits plus this noise samples their softmax exactly (Gumbel 1954; Maddison et al. 2014).
    The bits come from the finalizer of SplitMix64 (Steele et al. 2014) over a counter, so that steps share no
    state. `seeds` and `steps` are int64 of shape (rows,), `tokens` int64 of shape (rows, k).
    """
    import torch

    golden = _int64(0x9E3779B97F4A7C15)
    row_bits = _finalize(seeds + steps * golden)[:, None]
    bits = _finalize(row_bits + (tokens + 1) * golden)
    uniform = (((bits >> 40) & 0xFFFFFF).to(torch.float32) + 0.5) / (1 << 24)
    return -torch.log(-torch.log(uniform))


def _int64(value: int) -> int:
    """An unsigned 64-bit number as the int64 with the same bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _finalize(bits: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        # Shifts of int64 keep the sign; the mask makes them logical.
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * _int64(factor)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))
