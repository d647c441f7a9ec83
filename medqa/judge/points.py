"""The method `points`: the judge says of each point of the reference whether the answer says it, yes or no.

Completeness is the mean probability of yes over the points of the reference, key points the same with rank
weights n, n-1, ..., 1, as in `corrupted_answers`. Accuracy asks the reverse: the mean over the answer's own
sentences of the probability that the reference says them (FActScore, Min et al. 2023, judges so too).
Without a reference the question is the only point, and decides all criteria.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from medqa import prompts
from medqa.engines import Labels
from medqa.judge.cases import Case, Questions, expected_label, shorten, truncated_chars
from medqa.runtime.sections import JudgeParams
from medqa.text import distinct_sentences, key_points, normalize

MAX_STATEMENTS = 12  # of a reference and of an answer: they bound what a case costs
POINT, SENTENCE, QUESTION = "point", "sentence", "question"


def questions(case: Case, params: JudgeParams) -> Questions:
    """One question per point of the reference, then one per sentence of the answer; at most 12 each.

    Of equal sentences of the answer the judge reads the first alone, and it reads none that repeats the
    question: neither can raise a criterion.
    """
    question = normalize(case.question)
    sentences = [each for each in distinct_sentences(case.answer) if normalize(each) != question]
    answer = " ".join(sentences) if len(sentences) < len(key_points(case.answer)) else case.answer
    texts = (case.question, case.reference, answer)
    if case.reference:
        points = case.points or key_points(case.reference)
        checks = [(POINT, answer, points), (SENTENCE, case.reference, sentences)]
    else:
        checks = [(QUESTION, answer, [case.question])]
    messages = {}
    truncated = sum(truncated_chars(text, params.max_chars) for text in texts)
    for kind, text, statements in checks:
        truncated += sum(map(len, statements[MAX_STATEMENTS:]))
        for number, statement in enumerate(statements[:MAX_STATEMENTS]):
            shown = (shorten(each, params.max_chars) for each in (case.question, text, statement))
            messages[f"{kind} {number}"] = prompts.statement(params.template, kind, *shown)
    return Questions(messages, truncated)


def criteria(labels: Mapping[str, Labels]) -> dict[str, float]:
    """The three criteria, from 0 to 1, from the labels no and yes of each statement."""
    shares: dict[str, list[float]] = defaultdict(list)
    for name, each in labels.items():
        shares[name.split()[0]].append(expected_label(each))
    points = shares[POINT] or shares[QUESTION]
    return {
        "accuracy": fmean(shares[SENTENCE] or points),
        "completeness": fmean(points),
        "key_points": _rank_mean(points),
    }


def _rank_mean(values: Sequence[float]) -> float:
    weights = range(len(values), 0, -1)
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
