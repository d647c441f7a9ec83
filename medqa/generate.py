"""Candidates: several sampled answers to every preference question."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from medqa import engines, prompts
from medqa.engines import Completion, Failure, Request, Sampling, thinking
from medqa.records import Candidate, Question
from medqa.runtime.sections import GenerateParams


def generate_answers(
    engine: engines.Engine, questions: Sequence[Question], params: GenerateParams, seed: int
) -> list[Candidate]:
    """`params.n` candidates per question; each depends on model, question, `seed` and its number alone."""
    samples = [(question, sample) for question in questions for sample in range(params.n)]
    requests = [
        Request(
            id=f"{question.id}#{sample}",
            messages=prompts.ask(question.question),
            seed=engines.sample_seed(seed, question.id, sample),
        )
        for question, sample in samples
    ]
    sampling = Sampling(params.temperature, params.top_p, params.max_new_tokens)
    results = engines.collect(engine.generate(requests, sampling), requests, "generate")
    return [_candidate(*pair, results[request.id]) for pair, request in zip(samples, requests, strict=True)]


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
    reasons = [row.finish_reason for row in candidates]
    return {
        "candidates": len(reasons),
        "candidates_failed": reasons.count("failed"),
        "candidates_cut_off": fmean(reason == "length" for reason in reasons),
    }
