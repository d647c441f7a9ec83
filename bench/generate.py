"""Writing answers: the engine against a loop over single answers and against transformers' continuous
batching.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bench import runs
from bench.workloads import SEED, Workload, some
from medqa import engines, model, prompts
from medqa.engines import Completion, Request, Sampling, sample_seed
from medqa.runtime import sections

UNIT = "tokens"
ROWS = {"embedded": 96, "random": 8, "tiny": 4}  # questions, two answers each
CHECKED = 16  # questions that all contenders answer greedily
PAGE = 64  # tokens; more leaves a short answer's page empty
BATCH_TOKENS = 256  # the fastest of 128 to 2048, as is the page of 16 to 128
TARGETS = {"plain loop": 2.5, "generate_batch": 1.1}

Answer = Callable[[Any, Any, sections.GenerateParams, Sequence[str]], list[Completion]]


def contenders(load: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what loads a model and gives a run over so many questions, sampled as the pipeline does.

    All have the same weights, dequantised once and with the adapter in them, which a notebook would not have.
    """

    def ours(rows: int) -> runs.Run:
        engine, asked = started(load), some(load.questions, rows)
        return lambda: tokens(answers(engine, load.sampling, asked))

    def theirs(answer: Answer) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            net, tok = model.load_merged(load.base, load.dtype, load.adapter), model.tokenizer(load.base)
            asked = [row.question for row in some(load.questions, rows)]
            answer(net, tok, load.sampling, asked[:1])
            return lambda: tokens(answer(net, tok, load.sampling, asked))

        return prepare

    return {runs.FAST: ours, "plain loop": theirs(one_by_one), "generate_batch": theirs(continuously)}


def started(load: Workload) -> engines.Engine:
    """The engine of the pipeline, with its model loaded."""
    engine = engines.load(load.base, load.adapter, load.dtype, load.compute, load.compute.generate_batch_size)
    answers(engine, load.sampling, load.questions[:1])
    return engine


def answers(
    engine: engines.Engine, sampling: sections.GenerateParams, asked: Sequence[Any]
) -> list[Completion]:
    """What medqa.generate asks the engine for; the tokens are counted besides."""
    wanted = [(row, sample) for row in asked for sample in range(sampling.n)]
    requests = [
        Request(f"{row.id}#{sample}", prompts.ask(row.question), sample_seed(SEED, row.id, sample))
        for row, sample in wanted
    ]
    limits = Sampling(sampling.temperature, sampling.top_p, sampling.max_new_tokens)
    results = dict(engine.generate(requests, limits))
    return [results[request.id] for request in requests]


def one_by_one(
    net: Any, tok: Any, sampling: sections.GenerateParams, asked: Sequence[str]
) -> list[Completion]:
    """What a notebook does: every answer by a call of its own."""
    import torch

    given, told = settings(sampling), []
    for question in asked:
        for _ in range(sampling.n):
            ids = torch.tensor([encoded(tok, question)], device=net.device)
            out = net.generate(input_ids=ids, **given, pad_token_id=tok.pad_token_id)
            told.append(completion(tok, out[0, ids.shape[1] :].tolist()))
    return told


def continuously(
    net: Any, tok: Any, sampling: sections.GenerateParams, asked: Sequence[str]
) -> list[Completion]:
    """transformers' continuous batching. Raises RuntimeError where it gives back less than it was asked for."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    config = GenerationConfig(
        **settings(sampling), eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id
    )
    inputs = [encoded(tok, question) for question in asked for _ in range(sampling.n)]
    # Left to itself it takes 90% of the machine's memory, and most of a minute to fill it with zeros.
    pages = sum(-(-(len(ids) + sampling.max_new_tokens) // PAGE) for ids in inputs)
    memory = ContinuousBatchingConfig(page_size=PAGE, num_blocks=pages, max_batch_tokens=BATCH_TOKENS)
    told = net.generate_batch(inputs, generation_config=config, continuous_batching_config=memory)
    out = list(told.values())
    if len(out) != len(inputs) or any(result.error for result in out):
        raise RuntimeError(f"generate_batch answered {len(out)} of {len(inputs)}")
    return [completion(tok, result.generated_tokens) for result in out]


def check(load: Workload) -> str:
    """That all contenders write the same greedy texts in float32. Raises AssertionError where one does not."""
    greedy = load.sampling.model_copy(update={"temperature": 0.0})
    load = dataclasses.replace(load, dtype="float32", sampling=greedy)
    rows = some(load.questions, min(CHECKED, ROWS[load.name]))
    wanted = answers(started(load), load.sampling, rows)
    net, tok = model.load_merged(load.base, load.dtype, load.adapter), model.tokenizer(load.base)
    for answer in (one_by_one, continuously):
        told = answer(net, tok, load.sampling, [row.question for row in rows])
        for one, other in zip(wanted, told, strict=True):
            assert one.text == other.text, f"{answer.__name__}: {other.text!r} instead of {one.text!r}"
    assert len({row.text for row in wanted}) > len(rows) // 2, "the answers are all alike: this shows nothing"
    return f"{len(wanted)} greedy texts the same"


def settings(sampling: sections.GenerateParams) -> dict[str, Any]:
    """The same sampling for transformers, whose own default would keep 50 tokens."""
    limit = {"max_new_tokens": sampling.max_new_tokens}
    if sampling.temperature == 0:
        return {"do_sample": False, **limit}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        **limit,
    }


def encoded(tok: Any, question: str) -> list[int]:
    """The ids of a question in the chat format."""
    text = tok.apply_chat_template(prompts.ask(question), tokenize=False, add_generation_prompt=True)
    return tok(text, add_special_tokens=False).input_ids


def completion(tok: Any, ids: list[int]) -> Completion:
    """An answer of transformers, its last token left in or out by whoever wrote it."""
    told = ids[:-1] if ids[-1] == tok.eos_token_id else ids
    finish = "stop" if len(told) < len(ids) else "length"
    return Completion(tok.decode(told, skip_special_tokens=True).strip(), finish, len(told))


def tokens(told: Sequence[Completion]) -> int:
    """How many tokens were written: contenders draw different answers, and longer ones take longer."""
    return sum(row.tokens + (row.finish_reason == "stop") for row in told)
