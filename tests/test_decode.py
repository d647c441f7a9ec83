"""Drawing tokens: exact sampling, top-p as transformers has it, noise that belongs to a sample alone."""

import pytest
import torch

from medqa import engines
from medqa.engines import Sampling, continuous_batching


def seeds(count: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor([engines.sample_seed(seed, str(row), 0) for row in range(count)])


def warm(temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(temperature=temperature, top_p=top_p, max_new_tokens=1)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.95), (2.0, 0.5)])
def test_tokens_are_drawn_as_the_warpers_of_transformers_have_them(temperature: float, top_p: float) -> None:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 1.5])
    scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits[None]))
    drawn = continuous_batching.sample_token(
        logits.repeat(20_000, 1), warm(temperature, top_p), seeds(20_000), torch.zeros(20_000).long()
    )
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert torch.allclose(shares, scores[0].softmax(-1), atol=0.015)
    assert ((shares > 0) == (scores[0] > -torch.inf)).all()


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.999])
@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
def test_looking_at_the_likeliest_first_draws_what_looking_at_all_does(
    top_p: float, scale: float, monkeypatch
) -> None:
    logits = torch.randn(300, 2000, generator=torch.manual_seed(0)) * scale
    given = (logits, warm(0.7, top_p), seeds(300), torch.arange(300))
    expected = continuous_batching.sample_token(*given)
    for count in (1, 2000):
        monkeypatch.setattr(continuous_batching, "LIKELIEST", count)
        assert torch.equal(continuous_batching.sample_token(*given), expected)
    # A row's token is its own, whatever rows are beside it.
    alone = [
        continuous_batching.sample_token(
            logits[row : row + 1], given[1], given[2][row : row + 1], given[3][row : row + 1]
        )
        for row in range(300)
    ]
    assert torch.equal(torch.cat(alone), expected)


def test_gumbel_noise_has_the_moments_of_gumbel_and_no_correlation_between_steps() -> None:
    rows, tokens = seeds(200, 7), torch.arange(500).repeat(200, 1)
    first, second = (continuous_batching.gumbel(rows, torch.full((200,), step), tokens) for step in (0, 1))
    assert float(first.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(first.var()) == pytest.approx(1.6449, abs=0.05)
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.02
    # A token's noise is its own, whatever other tokens and rows it is asked with.
    few = torch.tensor([[7, 3, 499]])
    assert torch.equal(continuous_batching.gumbel(rows[5:6], torch.tensor([0]), few)[0], first[5, few[0]])
