"""Candidates: several sampled answers to every preference question."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from medqa import engines, prompts
from medqa.engines import thinking
from medqa.records import Candidate, Question
from medqa.runtime.sections import GenerateParams


def generate_answers(
    engine: engines.Engine, questions: Sequence[Question], params: GenerateParams, seed: int
) -> list[Candidate]:
    """n candidates for each question. A candidate depends on the model, its question, `seed` and its number
    alone.
    """
    wanted = [(question, sample) for question in questions for sample in range(params.n)]
    with engines.naming([f"{question.id}#{sample}" for question, sample in wanted]):
        answers = engine.generate(
            [prompts.ask(question.question) for question, _ in wanted],
            params,
            [engines.sample_seed(seed, question.id, sample) for question, sample in wanted],
        )
    parts = [thinking.split(answer.text) for answer in answers]
    return [
        Candidate(
            id=f"{question.id}#{sample}",
            question_id=question.id,
            sample=sample,
            question=question.question,
            reference=question.reference,
            text=text,
            finish_reason=answer.finish_reason,
            thinking=thoughts,
        )
        for (question, sample), answer, (thoughts, text) in zip(wanted, answers, parts, strict=True)
    ]


def summary(candidates: Iterable[Candidate]) -> dict[str, float]:
    """How many candidates there are (at least one), how many of them failed, and the share that was cut off."""
    finishes = [row.finish_reason for row in candidates]
    return {
        "candidates": len(finishes),
        "candidates_failed": finishes.count("failed"),
        "candidates_cut_off": fmean(finish == "length" for finish in finishes),
    }
