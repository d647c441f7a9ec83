"""A model's answers to held-out questions, judged, and measured where no judge is needed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from medqa import judge, metrics, option_reading, prompts, text
from medqa.engines import Completion, Engine, Likelihood, Sampling, naming, placing, thinking
from medqa.records import Answer, HeldOut, Score
from medqa.runtime.sections import EvaluateParams

HEADLINE = ("score", "key_point_recall", "exam_accuracy", "preference_alignment")
JUDGED = ("accuracy", "completeness", "key_points", "score")


def evaluate_model(
    policy: Engine,
    score: Callable[[list[tuple[str, str, str]]], list[Score]],
    held_out: Sequence[HeldOut],
    params: EvaluateParams,
    judge_name: str,
) -> list[Answer]:
    """A measured answer to each held-out question. `score` judges (question, reference, answer) triples."""
    asked = [prompts.ask(row.question) for row in held_out]
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=params.max_new_tokens)
    with naming([row.id for row in held_out]):
        completions = policy.generate(asked, sampling, [0] * len(asked))
        parts = [thinking.split(each.text) for each in completions]
        answers = [replace(each, text=text) for each, (_, text) in zip(completions, parts, strict=True)]
        likely = _likelihoods(policy, asked, held_out)
        scores = score(
            [
                (row.question, row.reference, answer.text)
                for row, answer in zip(held_out, answers, strict=True)
            ]
        )
    thoughts = [thoughts for thoughts, _ in parts]
    rows = zip(held_out, answers, thoughts, scores, likely, strict=True)
    return [_answer(*row, judge_name) for row in rows]


def _likelihoods(
    policy: Engine, prompted: Sequence[prompts.Messages], held_out: Sequence[HeldOut]
) -> list[tuple[Likelihood, Likelihood, Likelihood]]:
    """Of the chosen answer, the rejected one and the reference, multiple choice or not.

    They are asked for in one call: they share a prompt, and what `engines.load` gives computes equal rows
    once.
    """
    # There is no answer in an empty reference; the chosen answer takes its place, and `_answer` leaves it
    # out.
    texts = [text for row in held_out for text in (row.chosen, row.rejected, row.reference or row.chosen)]
    owners = [place for place in range(len(held_out)) for _ in range(3)]
    with placing(owners):
        likely = policy.answer_logprobs([prompted[place] for place in owners], texts)
    return list(zip(likely[::3], likely[1::3], likely[2::3], strict=True))


def _answer(
    row: HeldOut,
    answer: Completion,
    thoughts: str,
    judged: Score,
    likely: tuple[Likelihood, Likelihood, Likelihood],
    judge_name: str,
) -> Answer:
    chosen, rejected, reference = likely
    # What an engine was allowed to leave undone is none, never zero.
    if answer.finish_reason == "failed":
        judged = judge.UNANSWERED
    told = bool(chosen.tokens and rejected.tokens)
    referred = bool(row.reference and reference.tokens)
    return Answer(
        **asdict(judged),
        **measured(row, answer),
        chosen_logprob=chosen.nats if told else None,
        rejected_logprob=rejected.nats if told else None,
        chosen_tokens=chosen.tokens if told else None,
        reference_logprob=reference.nats if referred else None,
        reference_tokens=reference.tokens if referred else None,
        judge=judge_name,
        thinking=thoughts,
    )


def measured(row: HeldOut, answer: Completion) -> dict[str, Any]:
    """All of an Answer that needs neither judge nor likelihood."""
    letters = "".join(sorted({*option_reading.option_letters(row.question), row.gold}))
    choice = option_reading.read_option(answer.text, letters) if row.gold else ""
    return {
        "id": row.id,
        "kind": row.kind,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
        "key_point_recall": metrics.key_point_recall(
            answer.text, row.key_points or text.key_points(row.reference)
        ),
        "token_f1": metrics.token_f1(answer.text, row.reference),
        "rouge_l": metrics.rouge_l(answer.text, row.reference),
        "repetition": metrics.repetition(answer.text),
        "choice": choice,
        "correct": choice == row.gold if row.gold else None,
    }


def summary(answers: Sequence[Answer], seed: int, samples: int) -> dict[str, Any]:
    """The metrics of one model: open and literature questions by judge and reference, multiple choice by its
    letter.

    Means of nothing are left out. Answers that the model could not write count for none of the means of texts
    and letters. In `preference_alignment` a tie counts as half. `score`, `key_point_recall`, `token_f1`,
    `rouge_l` and `reference_logprob` come with a 95% bootstrap interval. `chosen_logprob` and
    `reference_logprob` are in nats per token, of the answer that people chose and the reference.
    """
    told = [row for row in answers if row.correct is None]
    exam = [row for row in answers if row.correct is not None and row.finish_reason != "failed"]
    scored = [row for row in told if row.score is not None]
    answered = [row for row in told if row.finish_reason != "failed"]
    result: dict[str, Any] = {
        "judge": ", ".join(sorted({row.judge for row in answers})),
        "questions": len(answers),
        "failed": sum(row.finish_reason == "failed" for row in answers),
        "unscored": len(told) - len(scored),
        "shortened": sum(row.truncated_chars > 0 for row in told),
    }
    for name in JUDGED:
        result |= _mean(f"judged_{name}" if name != "score" else name, [getattr(row, name) for row in scored])
    for name in ("repetition", "tokens"):
        result |= _mean(name, [float(getattr(row, name)) for row in answered])
    values = {"score": [row.score for row in scored]}
    values |= {
        name: [getattr(row, name) for row in answered] for name in ("key_point_recall", "token_f1", "rouge_l")
    }
    values["reference_logprob"] = [
        row.reference_logprob / row.reference_tokens for row in told if row.reference_tokens
    ]
    for name, each in values.items():
        result |= metrics.named_interval(name, each, seed, samples)
    sure = [row.chosen_logprob / row.chosen_tokens for row in told if row.chosen_logprob is not None]
    result |= _mean("chosen_logprob", sure)
    result |= _mean("cut_off", [row.finish_reason == "length" for row in answered])
    result |= _mean("exam_accuracy", [bool(row.correct) for row in exam])
    result |= _mean("exam_unreadable", [not row.choice for row in exam])
    pairs = [(row.chosen_logprob, row.rejected_logprob) for row in answers if row.chosen_logprob is not None]
    return result | _mean("preference_alignment", [metrics.win(*pair) for pair in pairs])


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: fmean(values)} if values else {}
