"""The tree of rows: what is computed once for all that share it is what each row alone would give."""

import random

import pytest
import torch

from medqa import chat, model
from medqa.engines import prefix_tree


@pytest.fixture(scope="module")
def net(tiny_base):
    loaded = model.load_merged(tiny_base, "float32")
    prefix_tree.prepare(loaded)
    return loaded


def family(rng: random.Random, longest: int) -> list[list[int]]:
    """Rows that share beginnings of any length, down to whole rows; sorted."""
    rows = [[rng.randrange(3, 500) for _ in range(rng.randint(1, longest))] for _ in range(rng.randint(1, 4))]
    for _ in range(rng.randint(0, 20)):
        stem = rng.choice(rows)
        rows.append(
            stem[: rng.randint(1, len(stem))] + [rng.randrange(3, 500) for _ in range(rng.randint(0, 30))]
        )
    return sorted(rows)


def passed(net, rows: list[list[int]]) -> tuple[list[torch.Tensor], torch.Tensor, int]:
    """The hidden states and last logits of each row, and how many tokens the tree has."""
    common = [0, *(chat.common_prefix(*pair) for pair in zip(rows, rows[1:], strict=False))]
    grown = prefix_tree.build(rows, common, net.device, steady=True)
    with torch.inference_mode():
        states = prefix_tree.hidden_states(net, grown.ids[None], grown.positions[None], grown)
        told = [states[0, path[: len(row)]] for path, row in zip(grown.paths, rows, strict=True)]
        return told, prefix_tree.last_logits(net, grown, states), int(sum(map(len, rows)) - sum(common))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block", [prefix_tree.BLOCK, 1 << 20])  # the second is how a GPU attends
def test_a_row_of_a_tree_is_the_row_alone(
    net, monkeypatch: pytest.MonkeyPatch, seed: int, block: int
) -> None:
    monkeypatch.setattr(prefix_tree, "BLOCK", block)
    rows = family(random.Random(seed), 120)
    states, logits, tokens = passed(net, rows)
    assert tokens == len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})
    for row, told, last in zip(rows, states, logits, strict=True):
        with torch.inference_mode():
            out = net(input_ids=torch.tensor([row]), output_hidden_states=True)
        assert torch.allclose(told, out.hidden_states[-1][0], atol=2e-5)
        assert torch.allclose(last, out.logits[0, -1], atol=2e-5)


@pytest.mark.parametrize("longest", [40, 150, 400, 900])
def test_a_row_has_the_same_bits_in_every_tree(net, longest: int) -> None:
    rng = random.Random(longest)
    for _ in range(6):
        rows = family(rng, longest)
        states, logits, _ = passed(net, rows)
        some = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
        fewer = passed(net, [rows[place] for place in some])
        for place, told, last in zip(some, *fewer[:2], strict=True):
            assert torch.equal(told, states[place]) and torch.equal(last, logits[place])
