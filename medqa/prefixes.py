"""How rows of tokens begin: what two of them have in common, and the prefix tree of many. No torch."""

from collections.abc import Sequence
from itertools import pairwise


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens with which both rows begin.

    For a prompt and its whole conversation this is where the answer begins.
    """
    shortest = min(len(first), len(second))
    return next((index for index in range(shortest) if first[index] != second[index]), shortest)


def common_prefixes(rows: Sequence[Sequence[int]]) -> list[int]:
    """The number of tokens that each row has in common with the row before it; 0 for the first row."""
    return [0, *(common_prefix(*neighbours) for neighbours in pairwise(rows))]


def share_prefixes(
    rows: Sequence[Sequence[int]], common: Sequence[int]
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Sorted rows as a prefix tree: the path of each row through the tokens of the tree, and these tokens.

    `common` are the `common_prefixes` of the rows. A path has one index of a token per position of its row. A
    token is the (row, position) that adds it to the tree.
    """
    paths: list[list[int]] = []
    tokens: list[tuple[int, int]] = []
    path: list[int] = []
    for index, (row, shared) in enumerate(zip(rows, common, strict=True)):
        path = path[:shared] + list(range(len(tokens), len(tokens) + len(row) - shared))
        paths.append(path)
        tokens += [(index, position) for position in range(shared, len(row))]
    return paths, tokens
