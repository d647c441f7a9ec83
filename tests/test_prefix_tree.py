"""medqa.prefixes and medqa.engines.prefix_tree: shared prefixes change nothing for a row."""

import random

import pytest
import torch

from medqa import model
from medqa.engines import prefix_tree
from medqa.prefixes import common_prefixes, share_prefixes


@pytest.fixture(scope="module")
def net(tiny_base):
    loaded = model.load_merged(tiny_base, "float32")
    prefix_tree.prepare(loaded)
    return loaded


def related_rows(rng: random.Random, longest: int) -> list[list[int]]:
    """Sorted rows that share prefixes of any length, up to whole rows."""
    rows = [[rng.randrange(3, 500) for _ in range(rng.randint(1, longest))] for _ in range(rng.randint(1, 4))]
    for _ in range(rng.randint(0, 20)):
        stem = rng.choice(rows)
        ending = [rng.randrange(3, 500) for _ in range(rng.randint(0, 30))]
        rows.append(stem[: rng.randint(1, len(stem))] + ending)
    return sorted(rows)


def run(net, rows: list[list[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The hidden states and the last logits of each row."""
    tree = prefix_tree.build(rows, common_prefixes(rows), net.device, batch_invariant=True)
    with torch.inference_mode():
        states = prefix_tree.hidden_states(net, tree.ids[None], tree.positions[None], tree)
        row_states = [states[0, path[: len(row)]] for path, row in zip(tree.token_index, rows, strict=True)]
        return row_states, prefix_tree.last_logits(net, tree, states)


def test_a_prefix_tree_has_every_row_and_each_prefix_once() -> None:
    rng = random.Random(1)
    rows = sorted([rng.randrange(3) for _ in range(rng.randrange(1, 9))] for _ in range(40))
    paths, tokens = share_prefixes(rows, common_prefixes(rows))
    assert [
        [rows[row][position] for row, position in map(tokens.__getitem__, path)] for path in paths
    ] == rows
    assert all(tokens[token][1] == position for path in paths for position, token in enumerate(path))
    assert len(tokens) == len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block", [prefix_tree.BLOCK, 1 << 20])  # the second is how a GPU attends
def test_a_row_of_a_tree_is_the_row_alone(
    net, monkeypatch: pytest.MonkeyPatch, seed: int, block: int
) -> None:
    monkeypatch.setattr(prefix_tree, "BLOCK", block)
    rows = related_rows(random.Random(seed), 120)
    for row, states, logits in zip(rows, *run(net, rows), strict=True):
        with torch.inference_mode():
            alone = net(input_ids=torch.tensor([row]), output_hidden_states=True)
        assert torch.allclose(states, alone.hidden_states[-1][0], atol=2e-5)
        assert torch.allclose(logits, alone.logits[0, -1], atol=2e-5)


@pytest.mark.parametrize("longest", [40, 150, 400, 900])
def test_a_row_has_the_same_bits_in_every_tree(net, longest: int) -> None:
    rng = random.Random(longest)
    for _ in range(6):
        rows = related_rows(rng, longest)
        states, logits = run(net, rows)
        subset = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
        results = run(net, [rows[index] for index in subset])
        for index, row_states, row_logits in zip(subset, *results, strict=True):
            assert torch.equal(row_states, states[index]) and torch.equal(row_logits, logits[index])
