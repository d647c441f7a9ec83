"""medqa.judge.candidate_order: the judge's scores beside token F1 and ROUGE-L of the same candidates."""

import pytest

from medqa import judge
from medqa.records import Judged

REFERENCE = "fever cough pain rest"


def question(number: int, *candidates: tuple[str, float | None], reference: str = REFERENCE) -> list[Judged]:
    """The candidates of a question from their texts and scores."""
    rows = []
    for sample, (text, score) in enumerate(candidates):
        scores = dict.fromkeys(("accuracy", "completeness", "key_points", "score"), score)
        ids = {"id": f"q{number:03}#{sample}", "question_id": f"q{number:03}", "sample": sample}
        texts = {"question": "Why?", "reference": reference, "text": text, "finish_reason": "stop"}
        rows.append(Judged(**ids, **texts, **scores, mass=1.0, truncated_chars=0, unscored=""))
    return rows


@pytest.mark.parametrize(
    ("candidates", "agreement", "longer_wins"),
    [
        ([("fever cough", 0.9), ("sleep", 0.1)], 1, 1),
        ([("sleep", 0.1), ("fever cough", 0.9)], 1, 1),
        ([("fever cough", 0.1), ("sleep", 0.9)], 0, 1),
        ([("fever", 0.5), ("sleep", 0.5)], 0.5, 0.5),
        ([("fever", 0.0), ("sleep and eat", 0.2)], 0, 0),
        # Those between the best and the worst do not count.
        ([("fever cough", 0.8), ("fever", 0.9), ("sleep", 0.1)], 1, 1),
        # No score, no word: no candidate.
        ([("fever cough pain rest", None), ("...", 0.0), ("fever cough", 0.9), ("fever", 0.1)], 1, 1),
    ],
)
def test_the_best_candidate_against_the_worst(
    candidates: list[tuple[str, float | None]], agreement: float, longer_wins: float
) -> None:
    order = judge.order_agreement(question(1, *candidates), seed=0)
    assert list(order) == ["token_f1", "token_f1_clear", "rouge_l", "rouge_l_clear"]
    for shares in order.values():
        wins = shares["agreement"], shares["longer_wins"]
        assert (shares["questions"], *wins) == (1, agreement, longer_wins)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        question(1, ("fever", 0.9)),
        question(1, ("fever", 0.9), ("cough", 0.1)),  # equal in both measures
        question(1, ("fever", 0.9), ("sleep", None)),
        question(1, ("fever", 0.9), ("!", 0.0)),
        question(1, ("fever", 0.9), ("sleep", 0.1), reference=""),
    ],
)
def test_a_question_without_two_different_candidates_counts_for_nothing(rows: list[Judged]) -> None:
    assert judge.order_agreement(rows, seed=0) == {}


def test_a_measure_has_questions_of_its_own() -> None:
    """The same words in another order: equal in token F1, but not in ROUGE-L."""
    order = judge.order_agreement(question(1, (REFERENCE, 0.9), ("rest pain cough fever", 0.1)), seed=0)
    assert list(order) == ["rouge_l", "rouge_l_clear"]


def test_the_clearer_half_has_the_largest_margins() -> None:
    narrow = [question(n, ("fever cough", 0.1), ("fever", 0.9)) for n in range(5)]
    wide = [question(n, (REFERENCE, 0.9), ("sleep", 0.1)) for n in range(5, 9)]
    rows = (row for group in (*narrow, *wide) for row in group)  # read once, question by question
    order = judge.order_agreement(rows, seed=0)
    for name in ("token_f1", "rouge_l"):
        assert (order[name]["questions"], order[name]["agreement"]) == (9, pytest.approx(4 / 9))
        assert 0 < order[name]["agreement_low"] < 4 / 9 < order[name]["agreement_high"] < 1
        clear = order[f"{name}_clear"]
        assert (clear["questions"], clear["agreement"]) == (5, 0.8)
        assert clear["longer_wins"] == 1 and 0.4 < clear["longer_wins_low"] < 1  # an exact bound
