"""medqa.engines.token_sampling: exact sampling, top-p as in transformers, noise that is a sample's own."""

import pytest
import torch

from medqa import engines
from medqa.engines import Sampling, token_sampling


def seeds(count: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor([engines.sample_seed(seed, str(row), 0) for row in range(count)])


def sampling(temperature: float, top_p: float) -> Sampling:
    return Sampling(temperature=temperature, top_p=top_p, max_new_tokens=1)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.95), (2.0, 0.5)])
def test_tokens_are_sampled_as_the_warpers_of_transformers_do(temperature: float, top_p: float) -> None:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 1.5])
    scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits[None]))
    steps = torch.zeros(20_000).long()
    tokens = token_sampling.sample_token(
        logits.repeat(20_000, 1), sampling(temperature, top_p), seeds(20_000), steps
    )
    shares = torch.bincount(tokens, minlength=5) / len(tokens)
    assert torch.allclose(shares, scores[0].softmax(-1), atol=0.015)
    assert ((shares > 0) == (scores[0] > -torch.inf)).all()


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.999])
@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
def test_a_token_depends_neither_on_other_rows_nor_on_how_many_tokens_are_looked_at_first(
    top_p: float, scale: float
) -> None:
    logits = torch.randn(300, 2000, generator=torch.manual_seed(0)) * scale

    def sample(rows: slice, **settings: int) -> torch.Tensor:
        samples = seeds(300)[rows], torch.arange(300)[rows]
        return token_sampling.sample_token(logits[rows], sampling(0.7, top_p), *samples, **settings)

    expected = sample(slice(None))
    for count in (1, 2000):
        assert torch.equal(sample(slice(None), top_tokens=count), expected)
    assert torch.equal(torch.cat([sample(slice(row, row + 1)) for row in range(300)]), expected)


def test_gumbel_noise_has_the_moments_of_gumbel_and_no_correlation_between_steps() -> None:
    rows, tokens = seeds(200, 7), torch.arange(500).repeat(200, 1)
    first, second = (token_sampling.gumbel_noise(rows, torch.full((200,), step), tokens) for step in (0, 1))
    assert float(first.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(first.var()) == pytest.approx(1.6449, abs=0.05)
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.02
    # The noise of a token does not depend on other tokens and rows.
    few = torch.tensor([[7, 3, 499]])
    assert torch.equal(token_sampling.gumbel_noise(rows[5:6], torch.tensor([0]), few)[0], first[5, few[0]])
