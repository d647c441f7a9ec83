"""One forward pass over rows that share how they begin: a prefix is computed once for all rows that have it.

Rows (lists of token ids) are sorted, so that those with a common prefix are neighbours, and laid out as the
tokens of a tree. Everything that a model does to a token alone runs once a tree token. Attention runs a row
at a time, over the row's own tokens in their order: what a token sees, and where it stands, is the same
whatever rows are beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

INVARIANT_TOKENS = (
    512  # tokens a pass, for each thread pair, from which matrix products add up a row in one order
)
INVARIANT_ROWS = 64  # rows whose logits are taken at once, for the same reason
BLOCK = 64  # queries that attend at once on a CPU; its kernel cuts fewer than 192 into blocks of 32
NAME = "medqa"  # of the attention, as transformers knows it


@dataclass(frozen=True)
class PrefixTree:
    """Rows as the tokens of a tree. `paths` (rows × width) leads from a row's places to tokens."""

    ids: Any  # (tokens,)
    positions: Any  # (tokens,), of each token in its rows
    token_index: Any  # (rows, width): place in `ids`; 0 past a row's end
    lengths: Any  # (rows,)
    blocks: list[
        tuple[int, Any]
    ]  # the first place of each block, and `paths` to its end of the rows with tokens in it
    owners: Any  # (tokens,): where a token's attention is taken among the places of all blocks

    def attend(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention: Callable[..., Any],
        window: int | None,
        **settings: Any,
    ) -> Any:
        """Causal attention within each row: (1, heads, tokens, head) → (1, tokens, heads, head).

        A token sees the last `window` tokens, or with none all before it.
        """
        import torch

        outs = []
        for start, paths in self.blocks:
            end = paths.shape[1]
            short = window is not None and end > window
            seen = query.new_ones(end - start, end, dtype=torch.bool).tril(start) if start or short else None
            if short:
                seen = seen.triu(start - window + 1)
            seen = None if seen is None else seen[None, None]
            told = (
                _along(part, places)
                for part, places in ((query, paths[:, start:]), (key, paths), (value, paths))
            )
            outs.append(attention(module, *told, seen, is_causal=True, **settings)[0].flatten(0, 1))
        return torch.cat(outs).index_select(0, self.owners)[None]


def _along(part: Any, paths: Any) -> Any:
    rows = part[0].transpose(0, 1).index_select(0, paths.flatten())
    return rows.unflatten(0, paths.shape).transpose(1, 2)


def build(rows: Sequence[Sequence[int]], common: Sequence[int], device: Any, batch_invariant: bool) -> PrefixTree:
    """The tree of sorted rows, each of at least one token, of which a row has `common` tokens with the one
    before it.

    Steady, it is filled up so that, in float32 on a CPU, a row's numbers are the same to the last bit
    whatever rows are beside it: measured, the order in which a matrix product adds up then depends on no
    other row nor on their number.
    """
    import torch

    width = -(-max(len(row) for row in rows) // 32) * 32
    size = BLOCK if torch.device(device).type == "cpu" else width
    if width > size:
        width = -(-width // size) * size
    ids, positions, paths = [], [], []
    path: list[int] = []
    for row, same in zip(rows, common, strict=True):
        path = [*path[:same], *range(len(ids), len(ids) + len(row) - same)]
        ids += row[same:]
        positions += range(same, len(row))
        paths.append(path + [0] * (width - len(path)))
    own = [range(same, len(row)) for row, same in zip(rows, common, strict=True)]
    blocks, owners = _blocks(own, width, size)
    least = INVARIANT_TOKENS * -(-torch.get_num_threads() // 2)
    fill = max(least, -(-len(ids) // 64) * 64) - len(ids) if batch_invariant else 0
    lengths = [len(row) for row in rows]
    told = (ids + [ids[0]] * fill, positions + [0] * fill, paths, lengths, owners + [0] * fill)
    ids, positions, paths, lengths, owners = (torch.tensor(part, device=device) for part in told)
    cut = [(places.start, paths[some, : places.stop]) for places, some in blocks]
    return PrefixTree(ids, positions, paths, lengths, cut, owners)


def _blocks(own: Sequence[range], width: int, size: int) -> tuple[list[tuple[range, list[int]]], list[int]]:
    """The places of each block, and which rows have tokens of their `own` in it; where each token's place is
    in them.

    How the CPU's kernel cuts queries and keys into blocks depends on their number. Cut before it, all of a
    query's arithmetic depends on its own place alone, and a prefix has the same bits in a long row as in a
    short one.
    """
    blocks, first, taken = [], {}, 0
    for places in (range(start, min(start + size, width)) for start in range(0, width, size)):
        some = [
            row for row, its in enumerate(own) if max(its.start, places.start) < min(its.stop, places.stop)
        ]
        first |= {(row, places.start): taken + len(places) * at - places.start for at, row in enumerate(some)}
        taken += len(places) * len(some)
        blocks += [(places, some)] if some else []
    return blocks, [first[row, place // size * size] + place for row, its in enumerate(own) for place in its]


def prepare(model: Any) -> None:
    """Let a model of transformers run passes with a `plan`: a Tree, or anything else that can attend."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, plan: Any = None, **settings: Any
    ) -> Any:
        if plan is None:
            return sdpa_attention_forward(module, query, key, value, mask, **settings)
        # In some models a layer sees so many tokens only: Gemma 3 has such layers between the others.
        settings = {"scaling": settings["scaling"], "window": settings.get("sliding_window")}
        return plan.attend(module, query, key, value, sdpa_attention_forward, **settings), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def hidden_states(model: Any, ids: Any, positions: Any, plan: Any) -> Any:
    """The last hidden states of a pass: (rows, tokens) → (rows, tokens, width)."""
    import torch

    # A mask of four dimensions is taken as it is: the plan knows what sees what.
    none = torch.empty(1, 1, 1, 1, device=ids.device)
    settings = {"attention_mask": none, "position_ids": positions, "use_cache": False, "plan": plan}
    return model.get_decoder()(input_ids=ids, **settings).last_hidden_state


def last_logits(model: Any, tree: PrefixTree, states: Any) -> Any:
    """The logits after each row's last token (rows × vocabulary)."""
    rows = len(tree.lengths)
    last = tree.token_index.gather(1, tree.lengths[:, None] - 1)[:, 0]
    last = last.repeat(-(-max(rows, INVARIANT_ROWS) // rows))[: -(-rows // INVARIANT_ROWS) * INVARIANT_ROWS]
    return logits(model, states[0].index_select(0, last))[:rows]


def logits(model: Any, states: Any) -> Any:
    """The logits after each hidden state, scaled and capped as the model does it: (…, width) → (…,
    vocabulary).
    """
    config, out = model.config.get_text_config(), model.get_output_embeddings()(states)
    if scale := getattr(config, "logits_scaling", None):  # Granite
        out = out / scale
    if scale := getattr(config, "logit_scale", None):  # Cohere
        out = out * scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        out = (out / cap).tanh() * cap
    return out
