"""A model's answers to held-out questions, judged, and measured where no judge is needed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from statistics import fmean
from typing import Any

import numpy as np

from medqa import groups, judge, metrics, option_reading, prompts, text
from medqa.answer_measures import COUNTS, MEASURES
from medqa.columns import Columns, collect, present
from medqa.encoder import Embed
from medqa.engines import Completion, Engine, Failure, Likelihood, Request, Sampling, compute, thinking
from medqa.records import Answer, HeldOut, Score
from medqa.runtime.sections import EvaluateParams, JudgeParams
from medqa.spool import Spool, batches

HEADLINE = ("score", "key_point_recall", "exam_accuracy", "preference_alignment")
MEANS = ("judged_accuracy", "judged_completeness", "judged_key_points", "score", "repetition", "tokens")
INTERVALS = ("score", "key_point_recall", "token_f1", "rouge_l", "coverage", "reference_logprob")
GROUPED = ("score", "key_point_recall", "token_f1")  # the measures that are also shown by group
TEXTS = ("chosen", "rejected", "reference")  # of a held-out question, whose likelihoods are measured
EMBEDDED = 4096  # answers whose sentences' embeddings are in memory at once


@dataclass(frozen=True)
class Response:
    """What a policy gives for a held-out question: its own answer, and the likelihoods of TEXTS."""

    completion: Completion  # its text without the thoughts
    thinking: str
    likelihoods: dict[str, Likelihood]  # one that could not be computed is left out


def answer_questions(
    policy: Engine, held_out: Collection[HeldOut], params: EvaluateParams
) -> Sequence[Response]:
    """The policy's greedy answer to each question, and how likely it finds the given ones, on the disk."""
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=params.max_new_tokens)
    completions: Sequence[list[Completion | Failure]] = Spool(
        compute(
            lambda requests: policy.generate(requests, sampling),
            ([Request(row.id, prompts.ask(row.question))] for row in held_out),
            "answer",
            len(held_out),
        )
    )
    likelihoods = compute(
        policy.answer_logprobs, map(_likelihood_requests, held_out), "likelihood", len(held_out)
    )
    return Spool(map(_response, held_out, completions, likelihoods))


def _likelihood_requests(row: HeldOut) -> list[Request]:
    messages = prompts.ask(row.question)
    texts = {name: getattr(row, name) for name in TEXTS}
    return [Request(f"{row.id}:{name}", messages, answer=texts[name]) for name in _measured(row)]


def _measured(row: HeldOut) -> list[str]:
    """The names of the texts whose likelihoods are measured: there is no answer in an empty reference."""
    return [name for name in TEXTS if row.reference or name != "reference"]


def _response(
    row: HeldOut, completions: list[Completion | Failure], likelihoods: list[Likelihood | Failure]
) -> Response:
    [completion] = completions
    if isinstance(completion, Failure):
        completion = Completion("", "failed", 0)
    thoughts, answer = thinking.split(completion.text)
    computed = zip(_measured(row), likelihoods, strict=True)
    return Response(
        replace(completion, text=answer),
        thoughts,
        {name: each for name, each in computed if isinstance(each, Likelihood)},
    )


def measure_coverage(
    embed: Embed, held_out: Iterable[HeldOut], responses: Iterable[Response]
) -> list[float | None]:
    """How far each response says what the reference says, from 0 to 1; None without a reference.

    The responses are those to the held-out questions, in their order.
    """
    pairs = (
        (text.sentences(response.completion.text), text.sentences(row.reference))
        for row, response in zip(held_out, responses, strict=True)
    )
    return [value for batch in batches(pairs, EMBEDDED) for value in _coverages(embed, batch)]


def _coverages(embed: Embed, pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[float | None]:
    """The coverage of each pair of an answer's and a reference's sentences."""
    blocks = [sentences for pair in pairs for sentences in pair]
    vectors = embed([*chain.from_iterable(blocks)])
    parts = np.split(vectors, np.cumsum([len(sentences) for sentences in blocks]))
    return [
        round(metrics.coverage(answer, reference), 6) if len(reference) else None
        for answer, reference in zip(parts[::2], parts[1::2], strict=False)
    ]


def judge_responses(
    grader: Engine,
    held_out: Collection[HeldOut],
    responses: Collection[Response],
    coverages: Iterable[float | None],
    params: JudgeParams,
    judge_name: str,
) -> Sequence[Answer]:
    """The measured answer to each held-out question, with its coverage from `measure_coverage`, on the disk.

    Responses and coverages come in the order of the questions. What could not be computed is None, not zero.
    """
    cases = (
        judge.Case(row.id, row.question, row.reference, response.completion.text, row.key_points)
        for row, response in zip(held_out, responses, strict=True)
    )
    scores = judge.score_each(grader, cases, len(held_out), params)
    rows = zip(held_out, responses, scores, coverages, strict=True)
    return Spool(_answer(*row, judge_name) for row in rows)


def evaluate_model(
    policy: Engine,
    grader: Engine,
    embed: Embed,
    held_out: Collection[HeldOut],
    params: EvaluateParams,
    judge_params: JudgeParams,
    judge_name: str,
) -> Sequence[Answer]:
    """The measured answer of a policy to each held-out question, where both models fit into memory."""
    responses = answer_questions(policy, held_out, params)
    coverages = measure_coverage(embed, held_out, responses)
    return judge_responses(grader, held_out, responses, coverages, judge_params, judge_name)


def _answer(
    row: HeldOut, response: Response, score: Score, coverage: float | None, judge_name: str
) -> Answer:
    likelihoods = response.likelihoods
    # Preference alignment compares the two: neither is of use alone.
    pair = likelihoods if {"chosen", "rejected"} <= set(likelihoods) else {}
    chosen, rejected, reference = pair.get("chosen"), pair.get("rejected"), likelihoods.get("reference")
    failed = response.completion.finish_reason == "failed"
    return Answer(
        **vars(judge.UNANSWERED if failed else score),
        **judge_free_measures(row, response.completion),
        coverage=coverage,
        chosen_logprob=chosen and chosen.nats,
        rejected_logprob=rejected and rejected.nats,
        chosen_tokens=chosen and chosen.tokens,
        rejected_tokens=rejected and rejected.tokens,
        reference_logprob=reference and reference.nats,
        reference_tokens=reference and reference.tokens,
        judge=judge_name,
        thinking=response.thinking,
    )


def judge_free_measures(row: HeldOut, answer: Completion) -> dict[str, Any]:
    """All of an Answer that needs no model."""
    letters = "".join(sorted({*option_reading.option_letters(row.question), row.gold}))
    choice = option_reading.read_option(answer.text, letters) if row.gold else ""
    key_points = row.key_points or text.key_points(row.reference)
    return {
        "id": row.id,
        "kind": row.kind,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
        "key_point_recall": metrics.key_point_recall(answer.text, key_points),
        "token_f1": metrics.token_f1(answer.text, row.reference),
        "rouge_l": metrics.rouge_l(answer.text, row.reference),
        "repetition": metrics.repetition(answer.text),
        "choice": choice,
        "correct": choice == row.gold if row.gold else None,
        "groups": row.groups,
    }


def summary(answers: Collection[Answer], seed: int, samples: int) -> dict[str, Any]:
    """The metrics of one model: multiple choice by its letter, all other questions by judge and reference.

    `answers` are read three times, and of each no more than the numbers of MEASURES stays in memory. Means of
    nothing are left out. Failed answers count for none of the means of texts and letters. In
    `preference_alignment` a tie counts as half. Those of INTERVALS and `exam_accuracy` have a 95% bootstrap
    interval. `chosen_logprob` and `reference_logprob` are in nats per token, of the answer labelled better
    and the reference. `by` has the measures GROUPED of the scored open answers by group, as `groups.means`
    gives them.
    """
    columns = collect(answers, MEASURES)
    result: dict[str, Any] = {
        "judge": ", ".join(sorted({row.judge for row in answers})),
        "questions": len(answers),
        **{name: int(present(columns[name]).sum()) for name in COUNTS},
        **_means(columns, MEANS),
    }
    values = {name: present(columns[name]) for name in INTERVALS}
    result |= metrics.named_intervals(values, seed, samples)
    result |= _means(columns, ("chosen_logprob", "cut_off"))
    if len(correct := present(columns["exam_accuracy"])):
        result |= metrics.named("exam_accuracy", metrics.share_interval(correct, seed, samples))
    result |= _means(columns, ("exam_unreadable", "preference_alignment"))
    scored = ~np.isnan(columns["score"])
    grouped = {name: columns[name][scored] for name in GROUPED}
    return result | groups.means(compress((row.groups for row in answers), scored), grouped, seed, samples)


def _means(columns: Columns, names: Iterable[str]) -> dict[str, float]:
    return {name: fmean(values) for name in names if len(values := present(columns[name]))}
