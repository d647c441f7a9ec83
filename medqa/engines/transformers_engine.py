"""The engine that runs a model of transformers in this process."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from medqa import chat
from medqa.engines import prefix_tree, thinking
from medqa.engines.base import Completion, Failure, Labels, Likelihood, NextTokens, Request, Sampling
from medqa.engines.chat_tokens import ChatTokens
from medqa.engines.continuous_batching import SPARE, ContinuousBatch, Decoding
from medqa.prompts import reply
from medqa.runtime.environment import out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 4096  # requests whose token ids are in memory at once
LISTED = 256  # next tokens of a prompt: servers list 20, of which noise may put another 20 first
LOGIT_ROWS = 256  # tokens whose logits are in memory at once
RECOVERY = 8  # batches that have to fit before one of twice their size is tried again
TOO_LARGE = Failure("does not fit into memory, even alone; shorten it, or take a larger machine")

Result = TypeVar("Result")
# Results of rows from the tree of their tokens, its hidden states (1, tokens, width) and their ids.
Measure = Callable[[prefix_tree.PrefixTree, "torch.Tensor", list[str]], list[Result]]


class TransformersEngine:
    """A model in this process. Raises UserError for labels that are not one token each.

    `batch_size` is how many answers are written at once, and how many prompts of equal length without a
    common prefix are read at once. A batch that does not fit into memory is halved; what is done stays done.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: int):
        self.model, self.batch_size = model, batch_size
        self.chat = ChatTokens(model, tokenizer)
        # On a GPU or in 16 bits nothing makes a row independent of its batch: filling would only cost time.
        self.batch_invariant = model.device.type == "cpu" and model.dtype.itemsize == 4
        self.divisor, self.fitted = 1, 0  # of the batch size, and how many batches fitted since it changed
        prefix_tree.prepare(model)

    def close(self) -> None:
        """Nothing to give back but memory, which goes with the object."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[str, Completion | Failure]]:
        """Answers as they end. One that cannot fit into the context with its prompt is a Failure."""
        self.chat.format.check_room(sampling.max_new_tokens)
        for window in _windows(requests):
            texts = self.chat.render([request.messages for request in window])
            prompts = self.chat.tokenize(texts)
            opening = thinking.opened(texts[0])
            waiting = []
            for row, (request, prompt) in enumerate(zip(window, prompts, strict=True)):
                if failure := self.chat.beyond_context(prompt, sampling.max_new_tokens):
                    yield request.id, failure
                else:
                    waiting.append(Decoding(row, prompt, request.seed))
            for decoding in self._decode(waiting, sampling):
                done = decoding.tokens
                yield window[decoding.row].id, self.chat.completion(done, opening) if done else TOO_LARGE

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels | Failure]]:
        """A prompt beyond the context has no probabilities and no mass."""
        lead, label_ids = self.chat.label_ids(labels)
        for window in _windows(requests):
            prompts = self.chat.tokenize(self.chat.render([request.messages for request in window]))
            rows = {request.id: [*prompt, *lead] for request, prompt in zip(window, prompts, strict=True)}
            for id in [id for id, row in rows.items() if self.chat.beyond_context(row)]:
                del rows[id]
                yield id, Labels((), 0.0)
            yield from self._read(rows, partial(self._labels, label_ids), self.batch_size)

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Likelihood | Failure]]:
        """The likelihood of each answer after its messages. One beyond the context is a Failure."""
        for window in _windows(requests):
            prompts = self.chat.tokenize(self.chat.render([request.messages for request in window]))
            turns = [[*request.messages, *reply(request.answer)] for request in window]
            answered = self.chat.tokenize(self.chat.render(turns, answered=True))
            rows, starts = {}, {}
            for request, prompt, row in zip(window, prompts, answered, strict=True):
                if failure := self.chat.beyond_context(row):
                    yield request.id, failure
                    continue
                # An answer begins where it differs from the prompt: a template may open thoughts there.
                rows[request.id], starts[request.id] = row, chat.common_prefix(prompt, row)
            # These answers may be long, and attention takes memory by the square of the length.
            yield from self._read(rows, partial(self._likelihoods, starts), max(1, self.batch_size // 8))

    def next_tokens(
        self, requests: Sequence[Request], settings: dict[str, Any]
    ) -> Iterator[tuple[str, NextTokens | Failure]]:
        """The LISTED likeliest tokens that an answer begins with. `settings` are for the chat template."""
        prompts = self.chat.tokenize(self.chat.render([row.messages for row in requests], **settings))
        rows = {request.id: prompt for request, prompt in zip(requests, prompts, strict=True)}
        yield from self._read(rows, self._next_tokens, self.batch_size)

    def _decode(self, waiting: list[Decoding], sampling: Sampling) -> Iterator[Decoding]:
        """The rows as they end; one that does not fit into memory alone has no tokens."""
        import torch

        # Longest first: if a batch does not fit into memory, that shows at once.
        waiting.sort(key=lambda row: (row.length, row.prompt, row.row))
        stops = list(self.chat.format.ends.values())
        batch = ContinuousBatch(self.model, sampling, stops)
        while waiting or batch.alive:
            room = self._room(self.batch_size)
            free = room - len(batch.alive)
            new = waiting[-free:] if waiting and free * SPARE >= room else []
            running = batch.alive
            with torch.inference_mode():
                ended = self._attempt(lambda: batch.join(new) if new else batch.step(), counts=bool(new))  # noqa: B023
            if ended is not None:
                del waiting[len(waiting) - len(new) :]
                yield from ended
                continue
            for row in (*running, *new):
                row.tokens.clear()
            waiting += running
            if room == 1:
                yield waiting.pop()
            batch = ContinuousBatch(self.model, sampling, stops)

    def _read(
        self, rows: dict[str, list[int]], measure: Measure[Result], size: int
    ) -> Iterator[tuple[str, Result | Failure]]:
        """What `measure` gives for each row (its token ids by its id), from passes over neighbouring rows."""
        import torch

        def read(ids: list[str], common: list[int]) -> list[Result]:
            device, tokens = self.model.device, [rows[id] for id in ids]
            tree = prefix_tree.build(tokens, common, device, self.batch_invariant)
            with torch.inference_mode():
                states = prefix_tree.hidden_states(self.model, tree.ids[None], tree.positions[None], tree)
                return measure(tree, states, ids)

        order = sorted(rows, key=rows.__getitem__)
        while order:
            room = self._room(size)
            common = _common_prefixes([rows[id] for id in order[: 4 * room]], room)
            ids = order[: len(common)]
            results = self._attempt(lambda: read(ids, common))  # noqa: B023
            if results is not None:
                del order[: len(ids)]
                yield from zip(ids, results, strict=True)
            elif room == 1:
                yield order.pop(0), TOO_LARGE

    def _labels(
        self, label_ids: list[int], tree: prefix_tree.PrefixTree, states: "torch.Tensor", ids: list[str]
    ) -> list[Labels]:
        logits = prefix_tree.last_logits(self.model, tree, states)
        probabilities = logits.double().softmax(-1)[:, label_ids]
        mass = probabilities.sum(-1, keepdim=True)
        shares = (probabilities / mass).tolist()
        return [Labels(tuple(row), total) for row, total in zip(shares, mass[:, 0].tolist(), strict=True)]

    def _next_tokens(
        self, tree: prefix_tree.PrefixTree, states: "torch.Tensor", ids: list[str]
    ) -> list[NextTokens]:
        logits = prefix_tree.last_logits(self.model, tree, states).double()
        top = logits.log_softmax(-1).topk(min(LISTED, logits.shape[-1]))
        texts = [self.chat.tok.batch_decode([[token] for token in row]) for row in top.indices.tolist()]
        return [
            NextTokens(tuple(row), tuple(logprobs))
            for row, logprobs in zip(texts, top.values.tolist(), strict=True)
        ]

    def _likelihoods(
        self, starts: dict[str, int], tree: prefix_tree.PrefixTree, states: "torch.Tensor", ids: list[str]
    ) -> list[Likelihood]:
        result = []
        for id, path, length in zip(ids, tree.token_index, tree.lengths.tolist(), strict=True):
            answer = path[starts[id] : length]
            before = path[starts[id] - 1 : length - 1]
            result.append(self._likelihood(states[0, before], tree.ids[answer]))
        return result

    def _likelihood(self, hidden: "torch.Tensor", ids: "torch.Tensor") -> Likelihood:
        from torch.nn.functional import pad

        # All logits of a long answer over a real vocabulary would take gigabytes.
        total = 0.0
        for states, tokens in zip(hidden.split(LOGIT_ROWS), ids.split(LOGIT_ROWS), strict=True):
            filled = pad(states, (0, 0, 0, -len(states) % prefix_tree.INVARIANT_ROWS))
            logits = prefix_tree.logits(self.model, filled)[: len(states)].float()
            total += float(logits.log_softmax(-1).gather(-1, tokens[:, None]).double().sum())
        return Likelihood(total, len(ids))

    def _room(self, size: int) -> int:
        return max(1, size // self.divisor)

    def _attempt(self, run: Callable[[], list[Any]], counts: bool = True) -> list[Any] | None:
        """What `run` gives, or None if that did not fit into memory: the next batch is half the size then."""
        import torch

        try:
            done = run()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            done = None
        # Outside of the handler nothing refers to the tensors of the batch any more.
        if done is None:
            self.divisor, self.fitted = min(2 * self.divisor, self.batch_size), 0
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None
        self.fitted += counts
        if self.divisor > 1 and self.fitted >= RECOVERY:
            self.divisor, self.fitted = self.divisor // 2, 0
        return done


def _windows(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    for start in range(0, len(requests), WINDOW):
        yield requests[start : start + WINDOW]


def _common_prefixes(rows: Sequence[Sequence[int]], room: int) -> list[int]:
    """How many tokens each row has in common with the row before it, for as many rows as go into one pass.

    A pass has as many tokens as `room` of the longest rows have, where common prefixes count once.
    """
    common, tokens, longest = [0], len(rows[0]), len(rows[0])
    for previous, row in zip(rows, rows[1:], strict=False):
        shared = chat.common_prefix(previous, row)
        tokens += len(row) - shared
        longest = max(longest, len(row))
        if tokens > room * longest:
            break
        common.append(shared)
    return common
