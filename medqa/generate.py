"""Candidates: several sampled answers to every preference question."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import tee

from medqa import engines, prompts
from medqa.engines import Completion, Failure, Request, Sampling, thinking
from medqa.records import Candidate, Question
from medqa.runtime.sections import GenerateParams
from medqa.spool import Spool


def generate_answers(
    engine: engines.Engine, questions: Collection[Question], params: GenerateParams, seed: int
) -> Sequence[Candidate]:
    """`params.n` candidates per question; each depends on model, question, `seed` and its number alone.

    They are on the disk: questions and candidates may be more than fit into memory.
    """
    samples, waiting = tee((question, sample) for question in questions for sample in range(params.n))
    sampling = Sampling(params.temperature, params.top_p, params.max_new_tokens)
    results = engines.compute(
        lambda requests: engine.generate(requests, sampling),
        ([_request(question, sample, seed)] for question, sample in samples),
        "generate",
        len(questions) * params.n,
    )
    return Spool(_candidate(*row, result) for row, [result] in zip(waiting, results, strict=True))


def _request(question: Question, sample: int, seed: int) -> Request:
    return Request(
        id=f"{question.id}#{sample}",
        messages=prompts.ask(question.question),
        seed=engines.sample_seed(seed, question.id, sample),
    )


def _candidate(question: Question, sample: int, result: Completion | Failure) -> Candidate:
    completion = Completion("", "failed", 0) if isinstance(result, Failure) else result
    thoughts, answer = thinking.split(completion.text)
    return Candidate(
        id=f"{question.id}#{sample}",
        question_id=question.id,
        sample=sample,
        question=question.question,
        reference=question.reference,
        text=answer,
        finish_reason=completion.finish_reason,
        thinking=thoughts,
        points=question.points,
    )


def summary(candidates: Iterable[Candidate]) -> dict[str, float]:
    """How many candidates there are (at least one), how many failed, and the share that was cut off."""
    reasons = Counter(row.finish_reason for row in candidates)
    return {
        "candidates": reasons.total(),
        "candidates_failed": reasons["failed"],
        "candidates_cut_off": reasons["length"] / reasons.total(),
    }
