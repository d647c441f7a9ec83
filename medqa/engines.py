"""What generation and judging ask of a model, and the implementation that runs it in this process.

The code above an engine knows three operations: *generate*, *label probabilities*, and the *log-probability of an
answer*. A test may pass any object with them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from medqa.params import Float, Int, Section
from medqa.prompts import Messages, reply


class Params(Section):
    """Section `compute` of params.yaml: what cannot change a result. No stage tracks it."""

    generate_batch_size: Int = Field(ge=1)
    judge_batch_size: Int = Field(ge=1)
    engine: Literal["transformers"]


class Sampling(Section):
    """How an answer is written. Temperature 0 is greedy; seeds then play no part."""

    temperature: Float = Field(ge=0, le=5)
    top_p: Float = Field(gt=0, le=1)
    max_new_tokens: Int = Field(ge=1)


LOGIT_ROWS = 256  # tokens whose logits are held at once


@dataclass(frozen=True)
class Completion:
    """One answer; `finish` is `stop`, or `length` if the token limit cut it off."""

    text: str
    finish: str
    tokens: int


@dataclass(frozen=True)
class Labels:
    """The probability of each label among the labels (they sum to 1), and the mass they hold in all."""

    probabilities: tuple[float, ...]
    mass: float


@dataclass(frozen=True)
class Likelihood:
    """The log-probability of an answer with its end-of-turn token, in nats, summed over its `tokens`."""

    nats: float
    tokens: int


class Engine(Protocol):
    """Results come in the order of what was asked, one for each."""

    def generate(self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]: ...

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]: ...

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]: ...


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """The 62-bit seed of one sample: the same wherever, whenever and beside whatever it is drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{question_id}\n{sample}".encode()).digest()[:8], "big") >> 2


def gumbel(seeds: Any, step: int, size: int) -> Any:
    """Standard Gumbel noise (rows × size, float32) as a pure function of (seed, step, position).

    Arg-max of logits plus this noise samples their softmax exactly (Gumbel 1954; Maddison et al. 2014). The bits come
    from the finaliser of SplitMix64 (Steele et al. 2014) over a counter, so that no state is carried between steps.
    `seeds`: int64 tensor of shape (rows,).
    """
    import torch

    def signed(value: int) -> int:
        return (value + (1 << 63)) % (1 << 64) - (1 << 63)

    def mixed(x: Any) -> Any:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            # int64 shifts keep the sign; the mask makes them logical.
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * signed(factor)
        return x ^ ((x >> 31) & ((1 << 33) - 1))

    golden = 0x9E3779B97F4A7C15
    row = mixed(seeds + signed(step * golden))[:, None]
    bits = mixed(row + torch.arange(1, size + 1, device=seeds.device)[None, :] * signed(golden))
    uniform = (((bits >> 40) & 0xFFFFFF).to(torch.float32) + 0.5) / (1 << 24)
    return -torch.log(-torch.log(uniform))


class Transformers:
    """A model in this process, run in batches of similar length. Raises ValueError for a label of several tokens."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, progress: Callable[[int], Any] = lambda _: None):
        self.model, self.tok, self.batch_size, self.progress = model, tokenizer, batch_size, progress

    def generate(self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        import torch
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        def run(chosen: list[int]) -> list[Completion]:
            batch = self._batch([asked[index] for index in chosen])
            width = batch["input_ids"].shape[1]
            rows = torch.tensor([seeds[index] for index in chosen], device=self.model.device)
            processors = LogitsProcessorList()
            if sampling.temperature > 0:
                processors.append(TemperatureLogitsWarper(sampling.temperature))
                processors.append(TopPLogitsWarper(sampling.top_p))
                processors.append(
                    lambda ids, scores: scores.float() + gumbel(rows, ids.shape[1] - width, scores.shape[1])
                )
            out = self.model.generate(
                **batch,
                # Arg-max of the noisy logits is the sample; a checkpoint's own sampling settings must not join in.
                generation_config=_greedy(self.tok, sampling.max_new_tokens),
                logits_processor=processors,
            )
            return [self._completion(ids[width:].tolist()) for ids in out]

        return self._in_batches(asked, run)

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]:
        import torch

        ids = [self._label_id(label) for label in labels]

        def run(chosen: list[int]) -> list[Labels]:
            batch = self._batch([asked[index] for index in chosen])
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = self.model(**batch, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1]
            held = logits.double().softmax(-1)[:, ids]
            mass = held.sum(-1, keepdim=True)
            share = (held / mass).tolist()
            return [Labels(tuple(row), total) for row, total in zip(share, mass[:, 0].tolist(), strict=True)]

        return self._in_batches(asked, run)

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each answer after what was asked."""
        import torch

        turns = [[*messages, *reply(answer)] for messages, answer in zip(asked, answers, strict=True)]

        def run(chosen: list[int]) -> list[Likelihood]:
            batch = self._batch([turns[index] for index in chosen], answered=True)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            asked_lengths = self._batch([asked[index] for index in chosen])["attention_mask"].sum(-1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            told = (positions >= asked_lengths[:, None]) & (mask > 0)
            with torch.inference_mode():
                hidden = self.model.get_decoder()(**batch, position_ids=positions, use_cache=False).last_hidden_state
                return [
                    self._likelihood(states[:-1][wanted[1:]], row[1:][wanted[1:]])
                    for states, row, wanted in zip(hidden, ids, told, strict=True)
                ]

        # Given answers are as long as people make them, and attention takes memory by the square of the length.
        return self._in_batches(turns, run, max(1, self.batch_size // 8))

    def _likelihood(self, hidden: Any, ids: Any) -> Likelihood:
        # Logits of a long answer over a real vocabulary would take gigabytes at once.
        head, total = self.model.get_output_embeddings(), 0.0
        for states, wanted in zip(hidden.split(LOGIT_ROWS), ids.split(LOGIT_ROWS), strict=True):
            total += float(head(states).float().log_softmax(-1).gather(-1, wanted[:, None]).double().sum())
        return Likelihood(total, len(ids))

    def _in_batches(
        self, asked: Sequence[Messages], run: Callable[[list[int]], list[Any]], size: int | None = None
    ) -> list[Any]:
        size = size or self.batch_size
        order = sorted(range(len(asked)), key=lambda index: (sum(len(m["content"]) for m in asked[index]), index))
        results: list[Any] = [None] * len(asked)
        # Longest first: if a batch does not fit into memory, that shows at once.
        for end in range(len(order), 0, -size):
            chosen = order[max(0, end - size) : end]
            for index, result in zip(chosen, run(chosen), strict=True):
                results[index] = result
            self.progress(len(chosen))
        return results

    def _batch(self, asked: list[Messages], answered: bool = False) -> Any:
        texts = [
            self.tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered) for turns in asked
        ]
        return self.tok(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(self.model.device)

    def _completion(self, ids: list[int]) -> Completion:
        ends = [place for place, token in enumerate(ids) if token in (self.tok.eos_token_id, self.tok.pad_token_id)]
        told = ids[: ends[0]] if ends else ids
        text = self.tok.decode(told, skip_special_tokens=True).strip()
        return Completion(text, "stop" if ends else "length", len(told))

    def _label_id(self, label: str) -> int:
        ids = self.tok.encode(label, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(f"the label {label!r} is {len(ids)} tokens to this tokenizer; a label has to be one")
        return ids[0]


def _greedy(tok: Any, max_new_tokens: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=tok.pad_token_id,
        eos_token_id=[tok.eos_token_id, tok.pad_token_id],
    )


def load(
    model_dir: Path, adapter: Path | None, dtype: str, batch_size: int, progress: Callable[[int], Any] = lambda _: None
) -> Transformers:
    """The engine of a model directory with an adapter, if one is given. `progress` is told of each batch's rows."""
    from medqa import model

    return Transformers(model.load(model_dir, dtype, adapter), model.tokenizer(model_dir), batch_size, progress)
