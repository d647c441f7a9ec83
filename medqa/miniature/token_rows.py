"""Training rows of tiny models and of judges: token ids with their weights in the loss."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING, TypeVar

from medqa import prompts
from medqa.miniature.corrupted_answers import JudgeExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL_WEIGHT = 3.0
CANDIDATE_WEIGHT = 0.3
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
        """The tokens that are predicted in branches."""
        targets = zip(self.ids, self.weights, self.branches, strict=True)
        return [token for token, weight, branch in targets if weight > 0 and branch > 0]


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
    examples: Sequence[JudgeExample],
    template: str,
    max_length: int,
    labels_only: bool = False,
) -> list[TokenRow]:
    """Each example as a row: the judge's prompt, then a branch per criterion that ends with its label.

    The candidate is predicted too, at a low weight, and its points have labels: without that a tiny model
    learns to compare far later. A model that can read already learns from `labels_only`. Rows longer than
    `max_length` are left out.
    """
    rows = (row for batch in batched(examples, 500) for row in _rows(tok, batch, template, labels_only))
    return [row for row in rows if len(row.ids) <= max_length]


def _rows(
    tok: "PreTrainedTokenizerBase", examples: Sequence[JudgeExample], template: str, labels_only: bool
) -> Iterator[TokenRow]:
    texts, starts = [], []  # of each example's criteria: the text, and where its candidate begins
    for example in examples:
        criteria = prompts.judge(template, example.question, example.reference, example.candidate)
        for name, messages in criteria.items():
            text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            texts.append(text + prompts.LABELS[example.labels[name]])
            starts.append(text.rfind(example.candidate))
    encoded = tok(texts, return_offsets_mapping=True, add_special_tokens=False)
    size = len(prompts.CRITERIA)
    for index, example in enumerate(examples):
        first = index * size
        endings = encoded.input_ids[first : first + size]
        prefix = len(commonprefix(endings))
        spans = [(a - starts[first], b - starts[first]) for a, b in encoded.offset_mapping[first][:prefix]]
        ids, branches = list(endings[0][:prefix]), [0] * prefix
        weights, point_labels = [0.0] * prefix, [NO_POINT] * prefix
        if not labels_only:
            weights = [CANDIDATE_WEIGHT if begin >= 0 else 0.0 for begin, _ in spans]
            point_labels = [_point_label(begin, end, example) for begin, end in spans]
        for branch, ending in enumerate(endings, 1):
            ids += ending[prefix:]
            added = len(ending) - prefix
            weights += [0.0] * (added - 1) + [LABEL_WEIGHT]
            branches += [branch] * added
            point_labels += [NO_POINT] * added
        yield TokenRow(ids, weights, branches, point_labels)


def _point_label(begin: int, end: int, example: JudgeExample) -> int:
    # A token begins with the space before its word.
    spans = example.spans
    return next((int(right) for start, stop, right in spans if start - 1 <= begin and end <= stop), NO_POINT)


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most `size` items (itertools.batched comes with Python 3.12)."""
    return (items[start : start + size] for start in range(0, len(items), size))
