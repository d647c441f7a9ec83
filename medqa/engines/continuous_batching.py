"""Writing answers: a decode loop that rows join and leave while it runs, and how a token is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medqa import chat
from medqa.engines import prefix_tree
from medqa.engines.base import Sampling

LIKELIEST = 64  # tokens that are looked at first; only if they hold less than top_p, more
SPARE = 4  # a batch is made smaller, or new rows join it, when one in so many of its rows is free


@dataclass(eq=False)
class Decoding:
    """One answer to be written, and what is written of it."""

    row: int
    prompt: list[int]
    seed: int
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)


class ContinuousBatch:
    """Answers that are written side by side, each from its own prompt, a token a step.

    Keys and values lie in one table a layer (rows × heads × columns × head). Rows end at the same column, the
    last one written; a row that joins is put there too, whatever its length, and what lies before its first
    token is masked.
    """

    def __init__(self, model: Any, sampling: Sampling, stops: Sequence[int]):
        self.model, self.sampling, self.stops = model, sampling, frozenset(stops)
        self.rows: list[Decoding | None] = []
        self.tables: dict[int, tuple[Any, Any]] = {}
        self.at = 0
        self.mask: Any = None

    @property
    def alive(self) -> list[Decoding]:
        return [row for row in self.rows if row is not None]

    def join(self, new: Sequence[Decoding]) -> list[Decoding]:
        """Read the prompts of new rows, each prompt once, and draw their first tokens; those that end with
        it.
        """
        import torch

        prompts = sorted({tuple(row.prompt) for row in new})
        common = [0, *(chat.common_prefix(*pair) for pair in zip(prompts, prompts[1:], strict=False))]
        grown = prefix_tree.build(
            [list(prompt) for prompt in prompts], common, self.model.device, batch_invariant=False
        )
        read = _Prefill(grown)
        logits = prefix_tree.last_logits(
            self.model,
            grown,
            prefix_tree.hidden_states(self.model, grown.ids[None], grown.positions[None], read),
        )
        where = {prompt: place for place, prompt in enumerate(prompts)}
        places = [where[tuple(row.prompt)] for row in new]
        drawn = self._draw(list(new), logits[torch.tensor(places, device=logits.device)])
        ended = self._tell(list(new), drawn)
        kept = [(row, place) for row, place in zip(new, places, strict=True) if row not in ended]
        if kept:
            paths = grown.token_index.tolist()
            self._arrange([row for row, _ in kept], [paths[place] for _, place in kept], read.tables)
        return ended

    def step(self) -> list[Decoding]:
        """Write one token of every row; the rows that ended."""
        import torch

        if len(self.alive) * SPARE <= len(self.rows) * (SPARE - 1):
            self._arrange([], [], {})
        device = self.model.device
        self.mask[:, :, :, self.at] = 0
        # A row that has ended stays in its place until the table is arranged anew; what it says is not heard.
        last = [[row.tokens[-1] if row else 0] for row in self.rows]
        positions = [[row.length - 1 if row else 0] for row in self.rows]
        states = prefix_tree.hidden_states(
            self.model, torch.tensor(last, device=device), torch.tensor(positions, device=device), self
        )
        self.at += 1
        drawn = self._draw(self.rows, prefix_tree.logits(self.model, states[:, -1]))
        ended = self._tell(self.rows, drawn)
        self.rows = [None if row in ended else row for row in self.rows]
        return ended

    def attend(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention: Any,
        window: int | None,
        **settings: Any,
    ) -> Any:
        keys, values = self.tables[module.layer_idx]
        keys[:, :, self.at], values[:, :, self.at] = key[:, :, 0], value[:, :, 0]
        seen = slice(max(0, self.at + 1 - window) if window else 0, self.at + 1)
        return attention(
            module, query, keys[:, :, seen], values[:, :, seen], self.mask[..., seen], **settings
        )[0]

    def _draw(self, rows: Sequence[Decoding | None], logits: Any) -> list[int]:
        import torch

        seeds = torch.tensor([row.seed if row else 0 for row in rows], device=logits.device)
        steps = torch.tensor([len(row.tokens) if row else 0 for row in rows], device=logits.device)
        return sample_token(logits, self.sampling, seeds, steps).tolist()

    def _tell(self, rows: Sequence[Decoding | None], drawn: list[int]) -> list[Decoding]:
        ended = []
        for row, token in zip(rows, drawn, strict=True):
            if row is not None:
                row.tokens.append(token)
                if token in self.stops or len(row.tokens) == self.sampling.max_new_tokens:
                    ended.append(row)
        return ended

    def _arrange(self, new: list[Decoding], paths: list[list[int]], read: dict[int, Any]) -> None:
        """Tables of the living rows and the new ones, no wider than they need to be until the last token."""
        import torch

        places = [place for place, row in enumerate(self.rows) if row is not None]
        rows = [*self.alive, *new]
        # A row's last token is drawn, but not yet read.
        at = max(row.length for row in rows) - 1
        wide = at + self.sampling.max_new_tokens - min(len(row.tokens) for row in rows) + 1
        # Columns before a row's first token get any token: they are masked.
        sources = torch.tensor(
            [
                [0] * (at - len(row.prompt)) + path[: len(row.prompt)]
                for row, path in zip(new, paths, strict=True)
            ],
            device=self.model.device,
        )
        for layer in set(self.tables) | set(read):
            olds, news = self.tables.get(layer), read.get(layer)
            self.tables[layer] = tuple(
                self._table(places, sources, at, wide, olds and olds[part], news and news[part])
                for part in (0, 1)
            )
        device, dtype = self.model.device, self.tables[0][0].dtype
        starts = torch.tensor([at + 1 - row.length for row in rows], device=device)
        columns = torch.arange(wide, device=device)
        hidden = (columns < starts[:, None]) | (columns >= at)
        self.mask = torch.zeros(hidden.shape, device=device, dtype=dtype).masked_fill(
            hidden, torch.finfo(dtype).min
        )
        self.mask, self.rows, self.at = self.mask[:, None, None], rows, at

    def _table(self, places: list[int], sources: Any, at: int, wide: int, old: Any, read: Any) -> Any:
        like, kept = old if old is not None else read, len(places)
        table = like.new_zeros(kept + len(sources), like.shape[1], wide, like.shape[3])
        if kept:
            take = min(at, self.at)
            table[:kept, :, at - take : at] = old[places, :, self.at - take : self.at]
        if len(sources):
            told = read[0].index_select(1, sources.flatten())
            table[kept:, :, :at] = told.unflatten(1, sources.shape).transpose(0, 1)
        return table


class _Prefill:
    """Attends as its tree does and keeps the keys and values of each layer (1, heads, tokens, head)."""

    def __init__(self, grown: prefix_tree.PrefixTree):
        self.grown = grown
        self.tables: dict[int, tuple[Any, Any]] = {}

    def attend(self, module: Any, query: Any, key: Any, value: Any, attention: Any, **settings: Any) -> Any:
        self.tables[module.layer_idx] = key, value
        return self.grown.attend(module, query, key, value, attention, **settings)


def sample_token(logits: Any, sampling: Sampling, seeds: Any, steps: Any) -> Any:
    """A token for each row of logits (rows × vocabulary), given its seed and the number of tokens before it.

    Temperature, then top-p as transformers' warpers do it: a token stays if those likelier than it hold less
    than `top_p`. Temperature 0 takes the likeliest.
    """
    import torch

    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / sampling.temperature
    total = scores.logsumexp(-1, keepdim=True)
    size = scores.shape[1]
    count = size if sampling.top_p == 1 else min(size, LIKELIEST)
    while True:
        top, tokens = scores.topk(count)
        shares = (top - total).exp()
        before = shares.cumsum(-1) - shares
        if count == size or bool((before[:, -1] >= sampling.top_p).all()):
            break
        count = min(size, 8 * count)
    noisy = top + gumbel(seeds, steps, tokens)
    if sampling.top_p < 1:
        # The likeliest always stays.
        noisy[:, 1:] = noisy[:, 1:].masked_fill(before[:, 1:] >= sampling.top_p, -torch.inf)
    return tokens.gather(1, noisy.argmax(-1, keepdim=True))[:, 0]


def gumbel(seeds: Any, steps: Any, tokens: Any) -> Any:
    """Standard Gumbel noise (float32) as a pure function of (seed, step, token).

    Arg-max of logits plus this noise samples their softmax exactly (Gumbel 1954; Maddison et al. 2014). The
    bits come from the finaliser of SplitMix64 (Steele et al. 2014) over a counter, so that no state is
    carried between steps. `seeds`, `steps`: int64 of shape (rows,); `tokens`: int64 of shape (rows, k).
    """
    import torch

    def signed(value: int) -> int:
        return (value + (1 << 63)) % (1 << 64) - (1 << 63)

    def mixed(x: Any) -> Any:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            # int64 shifts keep the sign; the mask makes them logical.
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * signed(factor)
        return x ^ ((x >> 31) & ((1 << 33) - 1))

    golden = signed(0x9E3779B97F4A7C15)
    row = mixed(seeds + steps * golden)[:, None]
    bits = mixed(row + (tokens + 1) * golden)
    uniform = (((bits >> 40) & 0xFFFFFF).to(torch.float32) + 0.5) / (1 << 24)
    return -torch.log(-torch.log(uniform))
