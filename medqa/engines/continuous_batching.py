"""Continuous batching: answers join and leave a batch while it is being written, one token per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medqa.engines import prefix_tree
from medqa.engines.base import Sampling
from medqa.engines.token_sampling import sample_token
from medqa.prefixes import common_prefixes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from medqa.engines.prefix_tree import Attention

SPARE = 4  # rows join a batch, or its cache is rebuilt, when one in so many of its rows is free


@dataclass(eq=False)
class Decoding:
    """An answer that is being written."""

    row: int  # index of its request
    prompt: Sequence[int]
    seed: int
    tokens: list[int] = field(default_factory=list)  # written so far

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)


class ContinuousBatch:
    """Answers that are written side by side, one token per step, each from a prompt of its own.

    The KV cache holds the keys and the values of each layer: (rows, heads, columns, head width). All rows end
    in the same column, whatever their lengths; the columns before the first token of a row are masked.
    """

    def __init__(self, model: PreTrainedModel, sampling: Sampling, stops: Sequence[int]):
        self.model, self.sampling, self.stops = model, sampling, frozenset(stops)
        self.rows: list[Decoding | None] = []  # None where a row has ended
        self.kv_cache: dict[int, tuple[Tensor, ...]] = {}  # keys and values by layer
        self.column = 0  # the next to be written
        self.mask: Tensor  # (rows, 1, 1, columns): 0 for what a row sees, else the least number

    @property
    def alive(self) -> list[Decoding]:
        """The rows that have not ended."""
        return [row for row in self.rows if row is not None]

    def join(self, new: Sequence[Decoding]) -> list[Decoding]:
        """Prefill new rows, each distinct prompt once, and sample their first tokens; the rows that ended."""
        import torch

        prompts = sorted({tuple(row.prompt) for row in new})
        device = self.model.device
        tree = prefix_tree.build(prompts, common_prefixes(prompts), device, batch_invariant=False)
        prefill = _Prefill(tree)
        states = prefix_tree.hidden_states(self.model, tree.ids[None], tree.positions[None], prefill)
        logits = prefix_tree.last_logits(self.model, tree, states)
        index = {prompt: number for number, prompt in enumerate(prompts)}
        prompt_index = torch.tensor([index[tuple(row.prompt)] for row in new], device=device)
        ended = self._sample(new, logits[prompt_index])
        joining = [number for number, row in enumerate(new) if row not in ended]
        if joining:
            token_index = tree.token_index[prompt_index[joining]]
            self.rebuild_cache([new[number] for number in joining], prefill.kv_cache, token_index)
        return ended

    def step(self) -> list[Decoding]:
        """Write one token of every row; the rows that ended."""
        import torch

        if len(self.alive) * SPARE <= len(self.rows) * (SPARE - 1):
            self.rebuild_cache()
        device = self.model.device
        self.mask[:, :, :, self.column] = 0
        # A row that has ended is computed until the cache is rebuilt; its tokens are ignored.
        last = [[row.tokens[-1] if row else 0] for row in self.rows]
        positions = [[row.length - 1 if row else 0] for row in self.rows]
        states = prefix_tree.hidden_states(
            self.model, torch.tensor(last, device=device), torch.tensor(positions, device=device), self
        )
        self.column += 1
        ended = self._sample(self.rows, prefix_tree.logits(self.model, states[:, -1]))
        self.rows = [None if row in ended else row for row in self.rows]
        return ended

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, attention: Attention
    ) -> Tensor:
        """Write the newest token of each row to the cache, and let it attend to its row."""
        keys, values = self.kv_cache[layer]
        keys[:, :, self.column], values[:, :, self.column] = key[:, :, 0], value[:, :, 0]
        end = self.column + 1
        seen = slice(max(0, end - window) if window else 0, end)
        return attention(query, keys[:, :, seen], values[:, :, seen], self.mask[..., seen])[0]

    def _sample(self, rows: Sequence[Decoding | None], logits: Tensor) -> list[Decoding]:
        """Append a token to each row, from its logits (rows, vocabulary); the rows that ended."""
        import torch

        seeds = torch.tensor([row.seed if row else 0 for row in rows], device=logits.device)
        steps = torch.tensor([len(row.tokens) if row else 0 for row in rows], device=logits.device)
        ended = []
        for row, token in zip(rows, sample_token(logits, self.sampling, seeds, steps).tolist(), strict=True):
            if row is not None:
                row.tokens.append(token)
                if token in self.stops or len(row.tokens) == self.sampling.max_new_tokens:
                    ended.append(row)
        return ended

    def rebuild_cache(
        self,
        new: Sequence[Decoding] = (),
        prefill: Mapping[int, tuple[Tensor, ...]] | None = None,
        token_index: Tensor | None = None,
    ) -> None:
        """Drop the rows that have ended, add new ones, and make room for the tokens that all may still get.

        `prefill` holds the keys and values of the new prompts by layer, (1, heads, tokens, head width), and
        `token_index` (new rows, width) the token of the prefill at each position of a prompt.
        """
        import torch

        living = [index for index, row in enumerate(self.rows) if row is not None]
        rows = [*self.alive, *new]
        column = max(row.length for row in rows) - 1  # the last token of a row is sampled, but not yet read
        columns = column + self.sampling.max_new_tokens - min(len(row.tokens) for row in rows) + 1
        copied = min(column, self.column)
        for layer, parts in (self.kv_cache or prefill or {}).items():
            rebuilt = [part.new_zeros(len(rows), part.shape[1], columns, part.shape[3]) for part in parts]
            for old, cache in zip(parts, rebuilt, strict=True):
                old_rows = old[living, :, self.column - copied : self.column]
                cache[: len(living), :, column - copied : column] = old_rows
            self.kv_cache[layer] = tuple(rebuilt)
        if prefill and token_index is not None:
            starts = torch.tensor([column - len(row.prompt) for row in new], device=token_index.device)
            positions = torch.arange(column, device=starts.device) - starts[:, None]
            # Columns before the first token of a row get any token: they are masked.
            tokens = token_index.gather(1, positions.clamp(min=0)).masked_fill(positions < 0, 0)
            for layer, parts in prefill.items():
                for part, cache in zip(parts, self.kv_cache[layer], strict=True):
                    cache[len(living) :, :, :column] = part[0][:, tokens].transpose(0, 1)
        self.rows, self.column = list(rows), column
        self.mask = self._mask(columns)

    def _mask(self, columns: int) -> Tensor:
        import torch

        dtype, device = self.kv_cache[0][0].dtype, self.model.device
        starts = torch.tensor([self.column + 1 - row.length for row in self.alive], device=device)
        index = torch.arange(columns, device=device)
        hidden = ((index < starts[:, None]) | (index >= self.column))[:, None, None]
        mask = torch.zeros(hidden.shape, device=device, dtype=dtype)
        return mask.masked_fill(hidden, torch.finfo(dtype).min)


class _Prefill:
    """Attends as the prefix tree does, and keeps keys and values by layer: (1, heads, tokens, head width)."""

    def __init__(self, tree: prefix_tree.PrefixTree):
        self.tree = tree
        self.kv_cache: dict[int, tuple[Tensor, ...]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, *settings: Any) -> Tensor:
        self.kv_cache[layer] = key, value
        return self.tree.attend(layer, query, key, value, *settings)
