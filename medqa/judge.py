"""The judge: a score from 0 to 1 for each criterion, read from label probabilities in one prefill.

The prompt ends where the label goes. The score is the expected label, as in G-Eval (Liu et al. 2023), mapped
to 0..1. Nothing is generated, so there is nothing to parse and nothing that an answer could spell out for the
judge.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from medqa import prompts
from medqa.engines import Engine, Labels, naming, placing
from medqa.records import Candidate, Judged, Score
from medqa.runtime.sections import JudgeParams
from medqa.text import words

PLACES = 6  # decimals of a score in a file: beyond them the order of additions shows

# What is judged: a question, the reference and the answer.
Case = tuple[str, str, str]

_WORST = Score(0.0, 0.0, 0.0, 0.0, 1.0, 0, "")
UNANSWERED = Score(None, None, None, None, 0.0, 0, "the model could not answer")


def rank_answers(engine: Engine, candidates: Sequence[Candidate], params: JudgeParams) -> list[Judged]:
    """Every candidate with its scores; unscored ones carry the reason. One that a model left undone is
    unscored.
    """
    with naming([row.id for row in candidates]):
        scores = score(engine, [(row.question, row.reference, row.text) for row in candidates], params)
    scores = [
        UNANSWERED if row.finish_reason == "failed" else each
        for row, each in zip(candidates, scores, strict=True)
    ]
    return [Judged(**asdict(row), **asdict(each)) for row, each in zip(candidates, scores, strict=True)]


def score(engine: Engine, cases: Sequence[Case], params: JudgeParams) -> list[Score]:
    """A score for each case. An answer without a word is 0 everywhere; the judge is not asked.

    A case is unscored, never zero, if the labels hold less than `min_mass` of the probability for any
    criterion.
    """
    asked = [
        list(prompts.judge(params.template, *(shorten(text, params.max_chars) for text in case)).values())
        if words(case[2])
        else []
        for case in cases
    ]
    flat = [messages for criteria in asked for messages in criteria]
    with placing([place for place, criteria in enumerate(asked) for _ in criteria]):
        answers = iter(engine.label_probabilities(flat, prompts.LABELS) if flat else [])
    return [
        _score(
            [next(answers) for _ in criteria], params, sum(hidden(text, params.max_chars) for text in case)
        )
        if criteria
        else _WORST
        for case, criteria in zip(cases, asked, strict=True)
    ]


def histogram(judged: Sequence[Judged]) -> list[tuple[str, int]]:
    """How many scores fall into each tenth from 0 to 1, the last with its upper end; unscored ones are left
    out.
    """
    counts = Counter(min(int(row.score * 10), 9) for row in judged if row.score is not None)
    return [(f"{place / 10:.1f} to {(place + 1) / 10:.1f}", counts[place]) for place in range(10)]


def summary(judged: Sequence[Judged]) -> dict[str, float]:
    """Counts, and means over the scored candidates."""
    scored = [row for row in judged if row.score is not None]
    result: dict[str, float] = {
        "judged": len(judged),
        "judged_unscored": len(judged) - len(scored),
        "judged_shortened": sum(row.truncated_chars > 0 for row in judged),
    }
    if scored:
        for name in (*prompts.CRITERIA, "score"):
            result[f"mean_{name}"] = fmean(getattr(row, name) for row in scored)
        result["least_mass"] = min(row.mass for row in scored)
    return result


def shorten(text: str, max_chars: int) -> str:
    """The text, its middle left out where it is longer than `max_chars`; the rubric is never shortened."""
    half = (max_chars - 3) // 2
    return text if len(text) <= max_chars else f"{text[:half]}...{text[-half:]}"


def hidden(text: str, max_chars: int) -> int:
    """How many characters of a text `shorten` leaves out."""
    return 0 if len(text) <= max_chars else len(text) - 2 * ((max_chars - 3) // 2)


def expected(labels: Labels) -> float:
    """The expected label, the lowest label at 0 and the highest at 1."""
    top = len(labels.probabilities) - 1
    return sum(place * share for place, share in enumerate(labels.probabilities)) / top


def _score(labels: list[Labels], params: JudgeParams, hidden: int) -> Score:
    weights = params.criteria.model_dump()
    if not all(label.probabilities for label in labels):
        return Score(None, None, None, None, 0.0, hidden, "the judge could not read it")
    # NaN is no mass; and shares of no mass mean nothing, whatever the floor.
    mass = round(min(label.mass if label.mass > 0 else 0.0 for label in labels), PLACES)
    if mass == 0 or mass < params.min_mass:
        return Score(None, None, None, None, mass, hidden, f"label mass under {params.min_mass}")
    each = {name: expected(label) for name, label in zip(prompts.CRITERIA, labels, strict=True)}
    mean = sum(weights[name] * value for name, value in each.items()) / sum(weights.values())
    return Score(
        **{name: round(value, PLACES) for name, value in each.items()},
        score=round(mean, PLACES),
        mass=mass,
        truncated_chars=hidden,
        unscored="",
    )
