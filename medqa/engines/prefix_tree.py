"""Prefix sharing: one forward pass over rows of tokens computes each common prefix once.

Rows are sorted, so that rows with a common prefix are neighbours, and laid out as a prefix tree. Everything
that a model computes per token runs once per token of the tree. Attention runs per row, over the row's own
tokens in their order. So the position of a token, and what it attends to, do not depend on other rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from medqa.prefixes import share_prefixes

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# With so many tokens per pass and pair of threads, a matrix product adds up each row in one order.
INVARIANT_TOKENS = 512
INVARIANT_ROWS = 64  # hidden states whose logits are computed at once, for the same reason
BLOCK = 64  # queries that attend at once on a CPU; its kernel cuts fewer than 192 into blocks of 32
NAME = "medqa"  # of the attention, in the registry of transformers

# Attention of one layer, (queries, keys, values, mask or None, is_causal=…) → (attended, None), of the shapes
# (rows, heads, tokens, head width) → (rows, tokens, heads, head width).
Attention = Callable[..., "tuple[Tensor, None]"]


class AttentionPlan(Protocol):
    """How the tokens of a pass attend to each other."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, attention: Attention
    ) -> Tensor:
        """(rows, heads, tokens, head width) → (rows, tokens, heads, head width).

        A token sees the last `window` tokens of its row, or all tokens before it where that is None.
        """


class QueryBlock(NamedTuple):
    """Queries that attend at once: those of some rows from position `start` to the end of `token_index`."""

    start: int
    token_index: Tensor  # (rows, end): as in PrefixTree, of the rows with tokens of their own here


@dataclass(frozen=True)
class PrefixTree:
    """Rows of tokens as a prefix tree."""

    ids: Tensor  # (tokens,)
    positions: Tensor  # (tokens,): of each token in its rows
    token_index: Tensor  # (rows, width): the token at each position of a row; 0 past its end
    lengths: Tensor  # (rows,)
    blocks: list[QueryBlock]
    outputs: Tensor  # (tokens,): the index of a token's attention among the queries of all blocks

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, attention: Attention
    ) -> Tensor:
        """Causal attention per row: (1, heads, tokens, head width) → (1, tokens, heads, head width)."""
        import torch

        attended = []
        for start, token_index in self.blocks:
            end = token_index.shape[1]
            mask = None
            if start or (window and end > window):
                mask = query.new_ones(1, 1, end - start, end, dtype=torch.bool).tril(start)
                mask = mask.triu(start - window + 1) if window else mask
            queries = _by_row(query, token_index[:, start:])
            keys, values = _by_row(key, token_index), _by_row(value, token_index)
            attended.append(attention(queries, keys, values, mask, is_causal=True)[0].flatten(0, 1))
        return torch.cat(attended).index_select(0, self.outputs)[None]


def _by_row(tokens: Tensor, token_index: Tensor) -> Tensor:
    """(1, heads, tokens, head width) → (rows, heads, positions, head width)."""
    rows = tokens[0].transpose(0, 1).index_select(0, token_index.flatten())
    return rows.unflatten(0, token_index.shape).transpose(1, 2)


def build(
    rows: Sequence[Sequence[int]], common: Sequence[int], device: torch.device | str, batch_invariant: bool
) -> PrefixTree:
    """The prefix tree of sorted rows of at least one token each; `common` are their `common_prefixes`.

    A batch-invariant tree is filled up so that, in float32 on a CPU, the results of a row are the same to the
    last bit whatever other rows are in the tree: the order in which a matrix product adds up then depends on
    neither the other rows nor their number. This was measured.
    """
    import torch

    width = _round_up(max(map(len, rows)), 32)
    size = min(BLOCK, width) if torch.device(device).type == "cpu" else width
    width = _round_up(width, size)
    paths, tokens = share_prefixes(rows, common)
    blocks, outputs = _query_blocks(tokens, size)
    ids = [rows[row][position] for row, position in tokens]
    fill = 0
    if batch_invariant:
        least = INVARIANT_TOKENS * -(-torch.get_num_threads() // 2)
        fill = max(least, _round_up(len(ids), 64)) - len(ids)

    def tensor(values: list[Any]) -> Tensor:
        return torch.tensor(values, device=device)

    token_index = tensor([path + [0] * (width - len(path)) for path in paths])
    return PrefixTree(
        ids=tensor(ids + [ids[0]] * fill),
        positions=tensor([position for _, position in tokens] + [0] * fill),
        token_index=token_index,
        lengths=tensor([len(row) for row in rows]),
        blocks=[QueryBlock(start, token_index[block, : start + size]) for start, block in blocks.items()],
        outputs=tensor(outputs + [0] * fill),
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _query_blocks(tokens: Sequence[tuple[int, int]], size: int) -> tuple[dict[int, list[int]], list[int]]:
    """The rows of each block of `size` queries, by its first position, and the output index of each token.

    The CPU's kernel cuts queries and keys into blocks by their number. With blocks of our own, the arithmetic
    of a query depends on its position alone: a prefix has the same bits in a long row as in a short one.
    """
    rows: dict[int, dict[int, int]] = defaultdict(dict)  # first position → {row: its index in the block}
    for row, position in tokens:
        block = rows[position // size * size]
        block.setdefault(row, len(block))
    first_output, count = {}, 0
    for start in sorted(rows):
        first_output[start] = count
        count += len(rows[start]) * size
    outputs = []
    for row, position in tokens:
        start = position // size * size
        outputs.append(first_output[start] + rows[start][row] * size + position - start)
    return {start: list(rows[start]) for start in first_output}, outputs


def prepare(model: PreTrainedModel) -> None:
    """Let a model of transformers run passes with an AttentionPlan."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        plan: AttentionPlan | None = None,
        **settings: Any,
    ) -> tuple[Tensor, None]:
        if plan is None:
            return sdpa_attention_forward(module, query, key, value, mask, **settings)
        # In some models some layers attend to a window only, as most layers of Gemma 3 do.
        window = settings.get("sliding_window")
        own_attention = partial(sdpa_attention_forward, module, scaling=settings["scaling"])
        return plan.attend(module.layer_idx, query, key, value, window, own_attention), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def hidden_states(model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: AttentionPlan) -> Tensor:
    """The last hidden states of a pass: (rows, tokens) → (rows, tokens, width)."""
    import torch

    # transformers takes a mask of four dimensions as it is. It is never read: the plan knows what sees what.
    mask = torch.empty(1, 1, 1, 1, device=ids.device)
    settings = {"attention_mask": mask, "position_ids": positions, "use_cache": False, "plan": plan}
    return model.get_decoder()(input_ids=ids, **settings).last_hidden_state


def last_logits(model: PreTrainedModel, tree: PrefixTree, states: Tensor) -> Tensor:
    """The logits after the last token of each row: (1, tokens, width) → (rows, vocabulary)."""
    rows = len(tree.lengths)
    last = tree.token_index.gather(1, tree.lengths[:, None] - 1)[:, 0]
    if rows < INVARIANT_ROWS:
        last = last.repeat(-(-INVARIANT_ROWS // rows))[:INVARIANT_ROWS]
    return logits(model, states[0].index_select(0, last))[:rows]


def logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The logits after hidden states, scaled and capped as the model does: (…, width) → (…, vocabulary)."""
    config, result = model.config.get_text_config(), model.get_output_embeddings()(states)
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        result = result / divisor
    if factor := getattr(config, "logit_scale", None):  # Cohere
        result = result * factor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        result = (result / cap).tanh() * cap
    return result
