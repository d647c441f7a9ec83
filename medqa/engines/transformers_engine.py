"""The engine that runs a model of transformers in this process."""

from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import Any

from medqa import chat
from medqa.engines import prefix_tree, thinking
from medqa.engines.base import Completion, Labels, Likelihood, RowError, Sampling, placing
from medqa.engines.continuous_batching import SPARE, ContinuousBatch, Decoding
from medqa.prompts import Messages, reply
from medqa.runtime.environment import out_of_memory
from medqa.runtime.errors import UserError

LOGIT_ROWS = 256  # tokens whose logits are held at once
RECOVERY = 8  # batches that have to fit before one of twice their size is tried again


class TransformersEngine:
    """A model in this process. Raises UserError for labels that are not one token each.

    `batch_size` is how many answers are written at once, and how many prompts of one length, sharing nothing,
    are read at once. A batch that does not fit into memory is halved; what is done stays done. RowError names
    a row that does not fit alone.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, progress: Callable[[int], Any] = lambda _: None
    ):
        self.model, self.tok, self.batch_size, self.progress = model, tokenizer, batch_size, progress
        # On a GPU and in 16 bits nothing makes a row's last bit its own; there the filling would only cost
        # time.
        self.steady = model.device.type == "cpu" and model.dtype.itemsize == 4
        # Tags around thoughts that are control tokens: decoding leaves those out, and would mix thoughts and
        # answer.
        special = {
            number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self.tags = {number: tag for number, tag in special.items() if tag in chain(*thinking.TAGS)}
        name, settings = str(model.name_or_path), (model.config, model.generation_config)
        self.chat = chat.from_tokenizer(tokenizer, *(part.to_dict() for part in settings), name)
        self.divisor, self.fitted = (
            1,
            0,
        )  # batches are this much smaller than asked for, since so many of them
        prefix_tree.prepare(model)

    def generate(
        self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        import torch

        self.chat.check_room(sampling.max_new_tokens)
        prompts = self._ids(asked)
        self._check_context(prompts, sampling.max_new_tokens)
        # Longest first: if a batch does not fit into memory, that shows at once.
        waiting = [Decoding(row, *told) for row, told in enumerate(zip(prompts, seeds, strict=True))]
        waiting.sort(key=lambda row: (row.length, row.prompt, row.row))
        results: list[Any] = [None] * len(asked)
        stops = list(self.chat.ends.values())
        batch = ContinuousBatch(self.model, sampling, stops)
        tag = thinking.opened(self._texts(asked[:1])[0]) if asked else ""
        while waiting or batch.alive:
            room = max(1, self.batch_size // self.divisor)
            free = room - len(batch.alive)
            new = waiting[-free:] if waiting and free * SPARE >= room else []
            alive = batch.alive
            with torch.inference_mode():
                ended = self._fitting(
                    lambda some: batch.join(some) if some else batch.step(),  # noqa: B023
                    new,
                    counts=bool(new),
                )
            if ended is None:
                if room == 1:
                    raise self._too_large((new or alive)[0].row)
                for row in (*alive, *new):
                    row.told.clear()
                waiting += alive
                batch = ContinuousBatch(self.model, sampling, stops)
                continue
            del waiting[len(waiting) - len(new) :]
            for row in ended:
                results[row.row] = self._completion(row.told, tag)
            self.progress(len(ended))
        return results

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]:
        """A prompt beyond the context has no probabilities and no mass, as a row that is left undone."""
        lead, ids = self._label_ids(labels)
        rows = [[*prompt, *lead] for prompt in self._ids(asked)]
        fitting = [
            place for place, row in enumerate(rows) if not self.chat.context or len(row) <= self.chat.context
        ]

        def run(grown: prefix_tree.PrefixTree, states: Any, chosen: list[int]) -> list[Labels]:
            held = prefix_tree.last_logits(self.model, grown, states).double().softmax(-1)[:, ids]
            mass = held.sum(-1, keepdim=True)
            share = (held / mass).tolist()
            return [Labels(tuple(row), total) for row, total in zip(share, mass[:, 0].tolist(), strict=True)]

        with placing(fitting):
            read = self._read([rows[place] for place in fitting], run, self.batch_size)
        self.progress(len(rows) - len(fitting))
        results = dict(zip(fitting, read, strict=True))
        return [results.get(place, Labels((), 0.0)) for place in range(len(rows))]

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each answer after what was asked."""
        turns = [[*messages, *reply(answer)] for messages, answer in zip(asked, answers, strict=True)]
        rows = self._ids(turns, answered=True)
        # An answer begins where it parts from the prompt: a template may open thoughts there that an answer
        # has not.
        starts = [chat.common_prefix(ids, row) for ids, row in zip(self._ids(asked), rows, strict=True)]
        self._check_context(rows)

        def run(grown: prefix_tree.PrefixTree, states: Any, chosen: list[int]) -> list[Likelihood]:
            told = [grown.paths[place, : len(rows[index])] for place, index in enumerate(chosen)]
            return [
                self._likelihood(states[0, path[starts[index] - 1 : -1]], grown.ids[path[starts[index] :]])
                for path, index in zip(told, chosen, strict=True)
            ]

        # Given answers are as long as people make them, and attention takes memory by the square of the
        # length.
        return self._read(rows, run, max(1, self.batch_size // 8))

    def _likelihood(self, hidden: Any, ids: Any) -> Likelihood:
        from torch.nn.functional import pad

        # Logits of a long answer over a real vocabulary would take gigabytes at once.
        total = 0.0
        for states, wanted in zip(hidden.split(LOGIT_ROWS), ids.split(LOGIT_ROWS), strict=True):
            steady = pad(states, (0, 0, 0, -len(states) % prefix_tree.STEADY_ROWS))
            logits = prefix_tree.logits(self.model, steady)[: len(states)].float()
            total += float(logits.log_softmax(-1).gather(-1, wanted[:, None]).double().sum())
        return Likelihood(total, len(ids))

    def _read(
        self,
        rows: list[list[int]],
        run: Callable[[prefix_tree.PrefixTree, Any, list[int]], list[Any]],
        size: int,
    ) -> list:
        """What `run` gives for each row, from passes over neighbours in the order of their tokens."""
        import torch

        order = sorted(range(len(rows)), key=lambda index: rows[index])
        neighbours = zip(order, order[1:], strict=False)
        common = [0, *(chat.common_prefix(rows[one], rows[other]) for one, other in neighbours)]

        def passed(chosen: list[int]) -> list[Any]:
            told = [0, *common[start + 1 : start + len(chosen)]]
            grown = prefix_tree.build([rows[index] for index in chosen], told, self.model.device, self.steady)
            with torch.inference_mode():
                return run(
                    grown,
                    prefix_tree.hidden_states(self.model, grown.ids[None], grown.positions[None], grown),
                    chosen,
                )

        results: list[Any] = [None] * len(rows)
        start = 0
        while start < len(rows):
            room = max(1, size // self.divisor)
            chosen = order[
                start : start + _fill([rows[index] for index in order[start:]], common[start:], room)
            ]
            done = self._fitting(passed, chosen)
            if done is None:
                if room == 1:
                    raise self._too_large(chosen[0])
                continue
            for index, result in zip(chosen, done, strict=True):
                results[index] = result
            start += len(chosen)
            self.progress(len(chosen))
        return results

    def _fitting(
        self, run: Callable[[list[Any]], list[Any]], some: list[Any], counts: bool = True
    ) -> list[Any] | None:
        """What `run` gives, or none if that did not fit and the next has to be half the size."""
        import torch

        try:
            done = run(some)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            done = None
        # Out of the handler nothing holds the tensors of the batch any more.
        if done is None:
            self.divisor, self.fitted = 2 * self.divisor, 0
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None
        self.fitted += counts
        if self.divisor > 1 and self.fitted >= RECOVERY:
            self.divisor, self.fitted = self.divisor // 2, 0
        return done

    def _too_large(self, row: int) -> RowError:
        return RowError(row, "does not fit into memory, even alone; shorten it, or take a larger machine")

    def _ids(self, asked: Sequence[Messages], answered: bool = False) -> list[list[int]]:
        return self.tok(self._texts(asked, answered), add_special_tokens=False).input_ids if asked else []

    def _texts(self, asked: Sequence[Messages], answered: bool = False) -> list[str]:
        return [
            self.tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered)
            for turns in asked
        ]

    def _check_context(self, rows: Sequence[Sequence[int]], more: int = 0) -> None:
        context = self.chat.context
        for row, ids in enumerate(rows):
            if context and len(ids) + more > context:
                new = f" and max_new_tokens = {more} do" if more else " does"
                raise RowError(
                    row, f"a prompt of {len(ids)} tokens{new} not fit in a context of {context}; shorten it"
                )

    def _completion(self, ids: list[int], tag: str) -> Completion:
        """The answer of these tokens to a prompt that ends with an opening tag, if its template opens
        thoughts.
        """
        ended = ids[-1] in self.chat.ends.values()
        told = ids[:-1] if ended else ids
        pieces = (
            self.tags[number]
            if number in self.tags
            else self.tok.decode(list(group), skip_special_tokens=True)
            for number, group in groupby(told, lambda number: number if number in self.tags else None)
        )
        text = "".join(pieces).strip()
        # Cut off before a closing tag, all of it is thoughts, and only the prompt says so.
        return Completion(
            f"{tag}{text}" if tag and not ended else text, "stop" if ended else "length", len(told)
        )

    def _label_ids(self, labels: Sequence[str]) -> tuple[list[int], list[int]]:
        """The tokens that all labels begin with (a mark of a word's beginning, or none), and each one's last
        token.
        """
        rows = [self.tok.encode(label, add_special_tokens=False) for label in labels]
        leads, ids = {tuple(row[:-1]) for row in rows}, [row[-1] for row in rows]
        if len(leads) != 1 or len(set(ids)) != len(labels):
            raise UserError(
                f"{self.model.name_or_path}: the labels {', '.join(labels)} are not one token each to this tokenizer; "
                "choose another judge"
            )
        return [*leads.pop()], ids


def _fill(rows: Sequence[Sequence[int]], common: Sequence[int], room: int) -> int:
    """How many rows go into one pass: as many tokens as `room` of the longest have, prefixes counted once."""
    tokens, longest = len(rows[0]), len(rows[0])
    for place in range(1, min(len(rows), 4 * room)):
        tokens += len(rows[place]) - common[place]
        longest = max(longest, len(rows[place]))
        if tokens > room * longest:
            return place
    return min(len(rows), 4 * room)
