"""Scores of answers: a method puts questions to the judge, and makes criteria of the label probabilities.

The prompt ends where the label goes. Nothing is generated: nothing has to be parsed, and no answer can write
its own verdict.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Protocol

from medqa import prompts
from medqa.engines import Engine, Failure, Labels, Request, collect
from medqa.judge import grades, points
from medqa.judge.cases import Case, Questions
from medqa.records import Candidate, Judged, Score
from medqa.runtime.sections import JudgeParams
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


def rank_answers(engine: Engine, candidates: Sequence[Candidate], params: JudgeParams) -> list[Judged]:
    """Every candidate with its scores; unscored ones carry the reason. A failed candidate is unscored."""
    cases = [Case(row.id, row.question, row.reference, row.text, row.points) for row in candidates]
    scores = score(engine, cases, params)
    scores |= {row.id: UNANSWERED for row in candidates if row.finish_reason == "failed"}
    return [Judged(**asdict(row), **asdict(scores[row.id])) for row in candidates]


def score(engine: Engine, cases: Sequence[Case], params: JudgeParams) -> dict[str, Score]:
    """The score of each case, by id. An answer without a word has the worst one, and no request is made.

    A case is unscored, never zero, if for any question the labels hold less than `min_mass` of the
    probability.
    """
    method = METHODS[params.method]
    read = {case.id: method.questions(case, params) for case in cases if words(case.answer)}
    requests = {
        id: {name: Request(f"{id}:{name}", messages) for name, messages in each.messages.items()}
        for id, each in read.items()
    }
    flat = [request for by_name in requests.values() for request in by_name.values()]
    results = collect(engine.label_probabilities(flat, prompts.labels(params.template)), flat, "judge")
    labels = {
        id: {name: results[request.id] for name, request in by_name.items()}
        for id, by_name in requests.items()
    }
    return {
        case.id: _score(labels[case.id], read[case.id].truncated_chars, params) if case.id in read else WORST
        for case in cases
    }


def histogram(judged: Sequence[Judged]) -> list[tuple[str, int]]:
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
