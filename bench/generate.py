"""Writing answers: the engine against a loop over single answers and transformers' continuous batching."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench import peers, runs
from bench.workloads import SEED, Workload, take
from medqa import engines, model, prompts
from medqa.engines import Completion, Request, Sampling, sample_seed
from medqa.records import Question
from medqa.runtime.sections import GenerateParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNIT = "tokens"
ROWS = {"embedded": 96, "random": 8, "tiny": 4}  # questions, two answers each
CHECKED = 16  # questions that all contenders answer greedily
PAGE = 64  # tokens; with more, the page of a short answer stays empty
BATCH_TOKENS = 256  # the fastest of 128 to 2048, as the page is of 16 to 128
TARGETS = {"plain loop": 2.5, "generate_batch": 1.1}

Answer = Callable[
    ["PreTrainedModel", "PreTrainedTokenizerBase", GenerateParams, Sequence[str]], list[Completion]
]


def contenders(workload: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what loads a model and prepares a run over so many questions, sampled as in the pipeline.

    All have the same dequantised weights with the adapter merged, which a notebook would not have.
    """

    def ours(rows: int) -> runs.Run:
        engine, questions = start_engine(workload), take(workload.questions, rows)
        return lambda: count_tokens(answers(engine, workload.sampling, questions))

    def theirs(answer: Answer) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            net, tokenizer = load_model(workload)
            questions = [row.question for row in take(workload.questions, rows)]
            answer(net, tokenizer, workload.sampling, questions[:1])
            return lambda: count_tokens(answer(net, tokenizer, workload.sampling, questions))

        return prepare

    return {runs.OURS: ours, "plain loop": theirs(one_by_one), "generate_batch": theirs(continuously)}


def start_engine(workload: Workload) -> engines.Engine:
    """The engine of the pipeline, with its model loaded."""
    batch_size = workload.compute.generate_batch_size
    engine = engines.load(workload.base, workload.adapter, workload.dtype, workload.compute, batch_size)
    answers(engine, workload.sampling, workload.questions[:1])
    return engine


def answers(
    engine: engines.Engine, sampling: GenerateParams, questions: Sequence[Question]
) -> list[Completion]:
    """The answers of the engine to the requests of medqa.generate."""
    requests = [
        Request(f"{row.id}#{sample}", prompts.ask(row.question), sample_seed(SEED, row.id, sample))
        for row in questions
        for sample in range(sampling.n)
    ]
    limits = Sampling(sampling.temperature, sampling.top_p, sampling.max_new_tokens)
    results = dict(engine.generate(requests, limits))
    return [results[request.id] for request in requests]


def load_model(workload: Workload) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The policy without the engine."""
    net = model.load_merged(workload.base, workload.dtype, workload.adapter)
    return net, model.tokenizer(workload.base)


def one_by_one(
    net: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    sampling: GenerateParams,
    questions: Sequence[str],
) -> list[Completion]:
    """Every answer by a call of its own, as in a notebook."""
    return [
        completion(tokenizer, peers.write(net, tokenizer, prompts.ask(question), **settings(sampling)))
        for question in questions
        for _ in range(sampling.n)
    ]


def continuously(
    net: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    sampling: GenerateParams,
    questions: Sequence[str],
) -> list[Completion]:
    """transformers' continuous batching. Raises RuntimeError if answers are missing."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    config = GenerationConfig(
        **settings(sampling), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    prompt_ids = [
        peers.encode(tokenizer, prompts.ask(question)) for question in questions for _ in range(sampling.n)
    ]
    # By default it takes 90% of the machine's memory, and most of a minute to fill it with zeros.
    pages = sum(-(-(len(ids) + sampling.max_new_tokens) // PAGE) for ids in prompt_ids)
    memory = ContinuousBatchingConfig(page_size=PAGE, num_blocks=pages, max_batch_tokens=BATCH_TOKENS)
    results = net.generate_batch(prompt_ids, generation_config=config, continuous_batching_config=memory)
    outputs = list(results.values())
    if len(outputs) != len(prompt_ids) or any(output.error for output in outputs):
        raise RuntimeError(f"generate_batch answered {len(outputs)} of {len(prompt_ids)}")
    return [completion(tokenizer, output.generated_tokens) for output in outputs]


def check(workload: Workload) -> str:
    """Check that all contenders write the same greedy texts in float32. Raises AssertionError if not."""
    greedy = workload.sampling.model_copy(update={"temperature": 0.0})
    workload = dataclasses.replace(workload, dtype="float32", sampling=greedy)
    rows = take(workload.questions, min(CHECKED, ROWS[workload.name]))
    expected = [answer.text for answer in answers(start_engine(workload), workload.sampling, rows)]
    net, tokenizer = load_model(workload)
    for answer in (one_by_one, continuously):
        written = answer(net, tokenizer, workload.sampling, [row.question for row in rows])
        for left, right in zip(expected, written, strict=True):
            assert left == right.text, f"{answer.__name__}: {right.text!r} instead of {left!r}"
    assert len(set(expected)) > len(rows) // 2, "the answers are all alike: this shows nothing"
    return f"{len(expected)} greedy texts the same"


def settings(sampling: GenerateParams) -> dict[str, Any]:
    """The same sampling for transformers, whose own default would sample from 50 tokens only."""
    limit = {"max_new_tokens": sampling.max_new_tokens}
    if sampling.temperature == 0:
        return {"do_sample": False, **limit}
    shape = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return {"do_sample": True, **shape, **limit}


def completion(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> Completion:
    """An answer of transformers, which may or may not include the end token."""
    ends = ids[-1] == tokenizer.eos_token_id
    text_ids = ids[:-1] if ends else ids
    text = tokenizer.decode(text_ids, skip_special_tokens=True).strip()
    return Completion(text, "stop" if ends else "length", len(text_ids))


def count_tokens(completions: Sequence[Completion]) -> int:
    """How many tokens were written: contenders draw different answers, and longer ones take longer."""
    return sum(row.tokens + (row.finish_reason == "stop") for row in completions)
