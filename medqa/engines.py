"""What generation and judging ask of a model, and the implementation that runs it in this process.

The code above an engine knows three operations: *generate*, *label probabilities*, and the *log-probability of an
answer*. A test may pass any object with them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from medqa.params import Float, Int, Section, UserError
from medqa.prompts import Messages, reply
from medqa.servers import Server


class Params(Section):
    """Section `compute` of params.yaml: what cannot change a result. No stage tracks it."""

    generate_batch_size: Int = Field(ge=1)
    judge_batch_size: Int = Field(ge=1)
    engine: Literal["transformers", "http"]
    servers: dict[str, Server]  # for the engine http: who serves which of `models`
    store: bool  # keep every answer and score, and never ask a model for one twice
    checkpoint_minutes: Float = Field(ge=0)  # of training; 0 is after every step


class Sampling(Section):
    """How an answer is written. Temperature 0 is greedy; seeds then play no part."""

    temperature: Float = Field(ge=0, le=5)
    top_p: Float = Field(gt=0, le=1)
    max_new_tokens: Int = Field(ge=1)


LOGIT_ROWS = 256  # tokens whose logits are held at once
ARITHMETIC = 1  # raise it with every change below that can change a result: rows of the store made before are not used
STEADY_TOKENS = 512  # tokens a batch, for each thread pair, from which matrix products add up a row in one order
RECOVERY = 8  # batches that have to fit before one of twice their size is tried again
NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad allocation",
    "could not create a memory",
)


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


class RowError(UserError):
    """What is wrong with one row; `row` is its place in what was asked."""

    def __init__(self, row: int, message: str):
        super().__init__(row, message)
        self.row, self.message = row, message

    def __str__(self) -> str:
        return f"row {self.row + 1}: {self.message}"


@contextmanager
def naming(ids: Sequence[str]) -> Iterator[None]:
    """Within it, an error of an engine about a row names the row's id instead of its place."""
    try:
        yield
    except RowError as error:
        raise UserError(f"{ids[error.row]}: {error.message}") from error


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
        self.divisor, self.fitted = 1, 0  # batches are this much smaller than asked for, since so many of them

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

        return self._in_batches([sum(len(m["content"]) for m in messages) for messages in asked], run)

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]:
        import torch

        ids = [self._label_id(label) for label in labels]

        def run(chosen: list[int]) -> list[Labels]:
            batch = self._steady(texts, widths, chosen)
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = self.model(**batch, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1]
            held = logits[: len(chosen)].double().softmax(-1)[:, ids]
            mass = held.sum(-1, keepdim=True)
            share = (held / mass).tolist()
            return [Labels(tuple(row), total) for row, total in zip(share, mass[:, 0].tolist(), strict=True)]

        texts, widths = self._widths(asked)
        return self._in_batches(widths, run, alike=True)

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each answer after what was asked."""
        import torch

        turns = [[*messages, *reply(answer)] for messages, answer in zip(asked, answers, strict=True)]

        def run(chosen: list[int]) -> list[Likelihood]:
            batch = self._steady(texts, widths, chosen)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            asked_lengths = self._batch([asked[index] for index in chosen])["attention_mask"].sum(-1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            told = (positions[: len(chosen)] >= asked_lengths[:, None]) & (mask[: len(chosen)] > 0)
            with torch.inference_mode():
                hidden = self.model.get_decoder()(**batch, position_ids=positions, use_cache=False).last_hidden_state
                return [
                    self._likelihood(states[:-1][wanted[1:]], row[1:][wanted[1:]])
                    for states, row, wanted in zip(hidden[: len(chosen)], ids, told, strict=False)
                ]

        # Given answers are as long as people make them, and attention takes memory by the square of the length.
        texts, widths = self._widths(turns, answered=True)
        return self._in_batches(widths, run, max(1, self.batch_size // 8), alike=True)

    def _likelihood(self, hidden: Any, ids: Any) -> Likelihood:
        # Logits of a long answer over a real vocabulary would take gigabytes at once.
        head, total = self.model.get_output_embeddings(), 0.0
        for states, wanted in zip(hidden.split(LOGIT_ROWS), ids.split(LOGIT_ROWS), strict=True):
            total += float(head(states).float().log_softmax(-1).gather(-1, wanted[:, None]).double().sum())
        return Likelihood(total, len(ids))

    def _in_batches(
        self,
        lengths: Sequence[int],
        run: Callable[[list[int]], list[Any]],
        size: int | None = None,
        alike: bool = False,
    ) -> list[Any]:
        """What `run` gives for each row, in batches of neighbours in length, of one length only if `alike`.

        A batch that does not fit into memory is halved; what is done stays done. Raises RowError for a row that does
        not fit alone.
        """
        most = size or self.batch_size
        waiting = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
        results: list[Any] = [None] * len(lengths)
        # Longest first: if a batch does not fit into memory, that shows at once.
        while waiting:
            chosen = waiting[-max(1, most // self.divisor) :]
            if alike:
                chosen = [index for index in chosen if lengths[index] == lengths[waiting[-1]]]
            done = self._fitting(run, chosen)
            if done is None:
                self.divisor, self.fitted = -(-most // (len(chosen) // 2)), 0
                continue
            for index, result in zip(chosen, done, strict=True):
                results[index] = result
            del waiting[-len(chosen) :]
            self.progress(len(chosen))
        return results

    def _fitting(self, run: Callable[[list[int]], list[Any]], chosen: list[int]) -> list[Any] | None:
        """The results of a batch, or none if it did not fit and the next has to be smaller."""
        import torch

        try:
            done = run(chosen)
        except (MemoryError, RuntimeError) as error:
            told = str(error).lower()
            if not isinstance(error, MemoryError) and not any(words in told for words in NO_MEMORY):
                raise
            done = None
        # Out of the handler nothing holds the tensors of the batch any more.
        if done is None:
            if len(chosen) == 1:
                raise RowError(chosen[0], "does not fit into memory, even alone; shorten it, or take a larger machine")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None
        self.fitted += 1
        if self.divisor > 1 and self.fitted >= RECOVERY:
            self.divisor, self.fitted = self.divisor // 2, 0
        return done

    def _widths(self, asked: Sequence[Messages], answered: bool = False) -> tuple[list[str], list[int]]:
        """Each chat as text, and the width it is padded to: a function of its own length alone, at most 1/8 more."""
        texts = [self._text(turns, answered) for turns in asked]
        lengths = [len(ids) for ids in self.tok(texts, add_special_tokens=False).input_ids] if texts else []
        steps = [max(16, 1 << max(0, length.bit_length() - 4)) for length in lengths]
        return texts, [-(-length // step) * step for length, step in zip(lengths, steps, strict=True)]

    def _steady(self, texts: list[str], widths: list[int], chosen: list[int]) -> Any:
        """A batch in which a row's numbers are the same to the last bit, whatever stands beside it.

        Rows have one width, and a small batch is filled up with copies: measured in float32 on a CPU, the order in
        which a matrix product adds up a row then depends on neither the other rows nor their number.
        """
        import torch

        width = widths[chosen[0]]
        rows = -(-STEADY_TOKENS * -(-torch.get_num_threads() // 2) // width)
        filled = [texts[index] for index in chosen] + [texts[chosen[0]]] * (rows - len(chosen))
        padding = {"padding": "max_length", "max_length": width, "add_special_tokens": False}
        return self.tok(filled, return_tensors="pt", **padding).to(self.model.device)

    def _text(self, turns: Messages, answered: bool = False) -> str:
        return self.tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered)

    def _batch(self, asked: list[Messages]) -> Any:
        texts = [self._text(turns) for turns in asked]
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
    model_dir: Path,
    adapter: Path | None,
    dtype: str,
    compute: Params,
    batch_size: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> Engine:
    """The engine of a model directory with an adapter, if one is given. `progress` is told of each batch's rows.

    With `compute.store`, rows that were made before are read, not made; the model is loaded when one is missing.
    """
    from importlib.metadata import version

    from medqa import hashes, model
    from medqa import store as kept

    folders = [model_dir, *([adapter] if adapter else [])]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{missing[0]} is not there; rerun the stage that writes it (dvc repro)")
    content = [hashes.of(folder) for folder in folders]
    if compute.engine == "http":
        from medqa import http_engine

        return http_engine.load(model_dir, adapter, content, compute, progress)
    name = " + ".join(folder.name for folder in folders)
    libraries = [version(library) for library in ("torch", "transformers", "gptqmodel")]
    identity = ["transformers", ARITHMETIC, libraries, content, dtype, model.device().split(":")[0]]

    def start() -> Engine:
        return Transformers(model.load(model_dir, dtype, adapter), model.tokenizer(model_dir), batch_size, progress)

    opened = kept.Store(kept.path()) if compute.store else None
    return kept.Stored(start, opened, ("+".join(content), name), identity, batch_size, progress)
