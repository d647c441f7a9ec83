"""Scores of answers: a method puts questions to the judge, and makes criteria of the label probabilities.

The prompt ends where the label goes. Nothing is generated: nothing has to be parsed, and no answer can write
its own verdict.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import tee
from statistics import fmean
from typing import Protocol

from medqa import prompts
from medqa.engines import Engine, Failure, Labels, Request, compute
from medqa.judge import grades, points
from medqa.judge.cases import Case, Questions
from medqa.records import Candidate, Judged, Score
from medqa.runtime.sections import JudgeParams
from medqa.spool import Spool
from medqa.text import words

DECIMALS = 6  # of a score in a file: later decimals depend on the order of additions


class Method(Protocol):
    """How a case becomes questions to the judge, and their labels criteria."""

    def questions(self, case: Case, params: JudgeParams) -> Questions: ...

    def criteria(self, labels: Mapping[str, Labels]) -> dict[str, float]:
        """Each of the three criteria from 0 to 1, from the labels by the names of the questions."""


METHODS: dict[str, Method] = {"grades": grades, "points": points}


def unscored(reason: str, mass: float = 0.0, truncated: int = 0) -> Score:
    """No score, and why."""
    return Score(None, None, None, None, mass, truncated, reason)


WORST = Score(0.0, 0.0, 0.0, 0.0, 1.0, 0, "")
UNANSWERED = unscored("the model could not answer")


def rank_answers(engine: Engine, candidates: Collection[Candidate], params: JudgeParams) -> Sequence[Judged]:
    """Every candidate with its scores; unscored ones carry the reason. A failed candidate is unscored.

    They are on the disk: candidates may be more than fit into memory.
    """
    rows, waiting = tee(candidates)
    cases = (Case(row.id, row.question, row.reference, row.text, row.points) for row in rows)
    scores = score_each(engine, cases, len(candidates), params)
    return Spool(
        Judged(**vars(row), **vars(UNANSWERED if row.finish_reason == "failed" else score))
        for row, score in zip(waiting, scores, strict=True)
    )


def score(engine: Engine, cases: Collection[Case], params: JudgeParams) -> dict[str, Score]:
    """The score of each case, by id, as `score_each` gives it."""
    ids = (case.id for case in cases)
    return dict(zip(ids, score_each(engine, cases, len(cases), params), strict=True))


def score_each(engine: Engine, cases: Iterable[Case], total: int, params: JudgeParams) -> Iterator[Score]:
    """The score of each of `total` cases. An answer without a word has the worst one, without a request.

    A case is unscored, never zero, if for any question the labels hold less than `min_mass` of the
    probability. A window of cases is in memory at a time.
    """
    method, labels = METHODS[params.method], prompts.labels(params.template)
    read, waiting = tee(
        (case.id, method.questions(case, params) if words(case.answer) else None) for case in cases
    )
    rows = (
        [Request(f"{id}:{name}", messages) for name, messages in each.messages.items()] if each else []
        for id, each in read
    )
    results = compute(lambda requests: engine.label_probabilities(requests, labels), rows, "judge", total)
    for (_, each), row in zip(waiting, results, strict=True):
        if each is None:
            yield WORST
        else:
            yield _score(dict(zip(each.messages, row, strict=True)), each.truncated_chars, params)


def histogram(judged: Iterable[Judged]) -> list[tuple[str, int]]:
    """How many scores are in each tenth from 0 to 1, 1 itself in the last; unscored ones are left out."""
    counts = Counter(min(int(row.score * 10), 9) for row in judged if row.score is not None)
    return [(f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}", counts[tenth]) for tenth in range(10)]


def summary(judged: Iterable[Judged]) -> dict[str, float]:
    """Counts, and means over the scored candidates, of which a few numbers each are in memory."""
    names = (*prompts.CRITERIA, "score")
    values = {name: array("d") for name in (*names, "mass")}  # of scored candidates
    counts = dict.fromkeys(("judged", "judged_unscored", "judged_shortened"), 0)
    for row in judged:
        counts["judged"] += 1
        counts["judged_unscored"] += row.score is None
        counts["judged_shortened"] += row.truncated_chars > 0
        for name, each in values.items() if row.score is not None else ():
            each.append(getattr(row, name))
    if not values["score"]:
        return dict(counts)
    means = {f"mean_{name}": fmean(values[name]) for name in names}
    return counts | means | {"least_mass": min(values["mass"])}


def _score(results: Mapping[str, Labels | Failure], truncated: int, params: JudgeParams) -> Score:
    labels = {name: each for name, each in results.items() if isinstance(each, Labels) and each.probabilities}
    if len(labels) < len(results):
        return unscored("the judge could not read it", truncated=truncated)
    # NaN is no mass; and shares of no mass mean nothing, whatever the minimum.
    mass = round(min(each.mass if each.mass > 0 else 0.0 for each in labels.values()), DECIMALS)
    if mass == 0 or mass < params.min_mass:
        return unscored(f"label mass under {params.min_mass}", mass, truncated)
    values = METHODS[params.method].criteria(labels)
    weights = params.criteria.model_dump()
    mean = sum(weights[name] * value for name, value in values.items()) / sum(weights.values())
    return Score(
        **{name: round(value, DECIMALS) for name, value in values.items()},
        score=round(mean, DECIMALS),
        mass=mass,
        truncated_chars=truncated,
        unscored="",
    )
