"""Training rows of tiny models and of judges: token ids with their weights in the loss."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import commonprefix
from typing import TYPE_CHECKING, TypeVar

from medqa.miniature.judge_prompts import LabelledPrompt, Spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL_WEIGHT = 3.0
COMPARED_WEIGHT = 0.3
NO_POINT = -1  # the point label of a token outside of points
T = TypeVar("T")


@dataclass(frozen=True)
class TokenRow:
    """Token ids, the weight of each as a target (0: read only), its branch and its point label.

    Branch 0 is a common prefix. A token sees the prefix and its own branch, so that several endings cost
    little more than one. A point label is 1 for a token of a right point, 0 for one of a wrong point, and
    NO_POINT for any other token.
    """

    ids: list[int]
    weights: list[float]
    branches: list[int]
    point_labels: list[int]

    @property
    def labels(self) -> list[int]:
        """The tokens with which branches end."""
        return [token for token, weight in zip(self.ids, self.weights, strict=True) if weight == LABEL_WEIGHT]


def chunk_documents(documents: Sequence[list[int]], length: int, passes: int, seed: int) -> list[TokenRow]:
    """Documents (token ids) strung together in random order, anew in each pass, and cut to `length` tokens.

    What a model reads only at the beginning of a row it cannot recall after a chat prompt.
    """
    chunks: list[list[int]] = []
    rng = random.Random(f"pack {seed}")
    for _ in range(passes):
        order = list(documents)
        rng.shuffle(order)
        stream = [token for document in order for token in document]
        chunks += map(list, batched(stream, length))
    return [
        TokenRow(ids, [1.0] * len(ids), [0] * len(ids), [NO_POINT] * len(ids))
        for ids in chunks
        if len(ids) > 1
    ]


def example_rows(
    tok: "PreTrainedTokenizerBase",
    groups: Iterable[Sequence[LabelledPrompt]],
    max_length: int,
    labels_only: bool = False,
) -> list[TokenRow]:
    """Each group of prompts as a row: their common prefix, then a branch per prompt that ends with its label.

    The compared text is predicted too, at a low weight, and its points have labels: without that a tiny model
    learns to compare far later. A model that can read already learns from `labels_only`. Rows longer than
    `max_length` are left out.
    """
    rows = (row for batch in _batches(groups, 500) for row in _rows(tok, batch, labels_only))
    return [row for row in rows if len(row.ids) <= max_length]


def _rows(
    tok: "PreTrainedTokenizerBase", groups: Sequence[Sequence[LabelledPrompt]], labels_only: bool
) -> Iterator[TokenRow]:
    flat = [prompt for group in groups for prompt in group]
    chats = [prompt.messages for prompt in flat]
    texts = tok.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    labelled = [text + prompt.label for text, prompt in zip(texts, flat, strict=True)]
    encoded = tok(labelled, return_offsets_mapping=True, add_special_tokens=False)
    first = 0
    for group in groups:
        endings = encoded.input_ids[first : first + len(group)]
        prefix = len(commonprefix(endings))
        parts = []
        for branch, (ids, prompt) in enumerate(zip(endings, group, strict=True), 1):
            index = first + branch - 1
            start = texts[index].rfind(prompt.compared)
            offsets = [(begin - start, end - start) for begin, end in encoded.offset_mapping[index]]
            weights, point_labels = _targets(prompt, offsets, prefix, labels_only)
            parts.append(TokenRow(ids, weights, [0] * prefix + [branch] * (len(ids) - prefix), point_labels))
        yield _joined(parts, prefix)
        first += len(group)


def _targets(
    prompt: LabelledPrompt, offsets: list[tuple[int, int]], prefix: int, labels_only: bool
) -> tuple[list[float], list[int]]:
    """The weights and the point labels of a prompt's tokens, whose offsets count from the compared text."""
    if labels_only:
        return [0.0] * (len(offsets) - 1) + [LABEL_WEIGHT], [NO_POINT] * len(offsets)
    stop = len(prompt.compared) + 1  # one more character: the end of the text is predicted as well
    weights = [
        COMPARED_WEIGHT if begin >= 0 and (index < prefix or end <= stop) else 0.0
        for index, (begin, end) in enumerate(offsets[:-1])
    ]
    return [*weights, LABEL_WEIGHT], [_point_label(begin, end, prompt.spans) for begin, end in offsets]


def _joined(parts: Sequence[TokenRow], prefix: int) -> TokenRow:
    """The rows of branches as one row, in which their prefix comes once."""
    joined = parts[0]
    for part in parts[1:]:
        joined = TokenRow(
            joined.ids + part.ids[prefix:],
            joined.weights + part.weights[prefix:],
            joined.branches + part.branches[prefix:],
            joined.point_labels + part.point_labels[prefix:],
        )
    return joined


def _point_label(begin: int, end: int, spans: Spans) -> int:
    # A token begins with the space before its word.
    return next((int(right) for start, stop, right in spans if start - 1 <= begin and end <= stop), NO_POINT)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most `size` items (itertools.batched comes with Python 3.12)."""
    return (items[start : start + size] for start in range(0, len(items), size))
