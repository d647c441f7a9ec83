"""The judge: a score from 0 to 1 for each criterion, read from label probabilities in one prefill.

The prompt ends where the label goes. The score is the expected label, as in G-Eval (Liu et al. 2023), mapped
to 0..1. Nothing is generated: nothing has to be parsed, and no answer can write its own verdict.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from medqa import prompts
from medqa.engines import Engine, Failure, Labels, Request, collect
from medqa.records import Candidate, Judged, Score
from medqa.runtime.sections import JudgeParams
from medqa.text import words

DECIMALS = 6  # of a score in a file: later decimals depend on the order of additions


@dataclass(frozen=True)
class Case:
    """An answer to judge. `id` names it in messages and is unique within a call."""

    id: str
    question: str
    reference: str
    answer: str


def unscored(reason: str, mass: float = 0.0, truncated: int = 0) -> Score:
    """No score, and why."""
    return Score(None, None, None, None, mass, truncated, reason)


WORST = Score(0.0, 0.0, 0.0, 0.0, 1.0, 0, "")
UNANSWERED = unscored("the model could not answer")


def rank_answers(engine: Engine, candidates: Sequence[Candidate], params: JudgeParams) -> list[Judged]:
    """Every candidate with its scores; unscored ones carry the reason. A failed candidate is unscored."""
    scores = score(
        engine, [Case(row.id, row.question, row.reference, row.text) for row in candidates], params
    )
    scores |= {row.id: UNANSWERED for row in candidates if row.finish_reason == "failed"}
    return [Judged(**asdict(row), **asdict(scores[row.id])) for row in candidates]


def score(engine: Engine, cases: Sequence[Case], params: JudgeParams) -> dict[str, Score]:
    """The score of each case, by id. An answer without a word has the worst one, and no request is made.

    A case is unscored, never zero, if for any criterion the labels hold less than `min_mass` of the
    probability.
    """
    requests: dict[str, list[Request]] = {}
    for case in cases:
        texts = [shorten(text, params.max_chars) for text in (case.question, case.reference, case.answer)]
        messages = prompts.judge(params.template, *texts) if words(case.answer) else {}
        requests[case.id] = [Request(f"{case.id}:{name}", turns) for name, turns in messages.items()]
    flat = [request for criteria in requests.values() for request in criteria]
    labels = collect(engine.label_probabilities(flat, prompts.LABELS), flat, "judge")
    return {
        case.id: _score([labels[request.id] for request in requests[case.id]], case, params)
        if requests[case.id]
        else WORST
        for case in cases
    }


def histogram(judged: Sequence[Judged]) -> list[tuple[str, int]]:
    """How many scores are in each tenth from 0 to 1, 1 itself in the last; unscored ones are left out."""
    counts = Counter(min(int(row.score * 10), 9) for row in judged if row.score is not None)
    return [(f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}", counts[tenth]) for tenth in range(10)]


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


def truncated_chars(text: str, max_chars: int) -> int:
    """How many characters of a text `shorten` leaves out."""
    return 0 if len(text) <= max_chars else len(text) - 2 * ((max_chars - 3) // 2)


def expected_label(labels: Labels) -> float:
    """The expected label, where the lowest label is 0 and the highest is 1."""
    highest = len(labels.probabilities) - 1
    return sum(rank * share for rank, share in enumerate(labels.probabilities)) / highest


def _score(labels: list[Labels | Failure], case: Case, params: JudgeParams) -> Score:
    texts = (case.question, case.reference, case.answer)
    truncated = sum(truncated_chars(text, params.max_chars) for text in texts)
    read = [each for each in labels if isinstance(each, Labels) and each.probabilities]
    if len(read) < len(labels):
        return unscored("the judge could not read it", truncated=truncated)
    # NaN is no mass; and shares of no mass mean nothing, whatever the minimum.
    mass = round(min(each.mass if each.mass > 0 else 0.0 for each in read), DECIMALS)
    if mass == 0 or mass < params.min_mass:
        return unscored(f"label mass under {params.min_mass}", mass, truncated)
    values = {name: expected_label(each) for name, each in zip(prompts.CRITERIA, read, strict=True)}
    weights = params.criteria.model_dump()
    mean = sum(weights[name] * value for name, value in values.items()) / sum(weights.values())
    return Score(
        **{name: round(value, DECIMALS) for name, value in values.items()},
        score=round(mean, DECIMALS),
        mass=mass,
        truncated_chars=truncated,
        unscored="",
    )
