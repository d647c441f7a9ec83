"""medqa.agreement: wins of what people preferred, counted by hand."""

import pytest

from medqa import agreement
from medqa.agreement import Params
from medqa.records import Labelled, Score

PARAMS = Params(bootstrap_samples=200)


def scored(value: float | None) -> Score:
    return Score(value, value, value, value, 0.9 if value is not None else 0.1, "" if value is not None else "mass")


def judge(cases: list[tuple[str, str, str]]) -> list[Score]:
    """Reads the score that an answer begins with, as in '0.5 some text'; '?' is unscored."""
    return [scored(None if text[0] == "?" else float(text.split()[0])) for _, _, text in cases]


# label type, chosen, rejected
PAIRS = [
    ("easy", "0.9 one two three", "0.1"),
    ("easy", "0.9", "0.2 one"),
    ("easy", "0.1 one", "0.8"),
    ("hard", "0.5", "0.5 one"),  # a tie counts as half
    ("hard", "0.6", "0.4"),
    ("hard", "? one", "0.4"),
    ("human", "0.7", "?"),
]
ROWS = [
    Labelled(str(number), label_type, "Why?", "So." if number else "", chosen, rejected)
    for number, (label_type, chosen, rejected) in enumerate(PAIRS)
]


def test_agreement_is_what_one_counts_by_hand() -> None:
    result = agreement.measure(judge, ROWS, PARAMS, seed=0)
    assert (result["pairs"], result["unscored"], result["ties"], result["without_reference"]) == (7, 2, 1, 1)
    rows = {name: result[name]["rows"] for name in ("all", "easy", "hard")}
    assert rows == {"all": 5, "easy": 3, "hard": 2}
    assert result["all"]["agreement"] == pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5)
    assert result["easy"]["agreement"] == pytest.approx(2 / 3)
    assert result["hard"]["agreement"] == pytest.approx(0.75)
    # Words: '0.9' is two of them.
    assert result["all"]["longer_wins"] == pytest.approx((1 + 0 + 1 + 0 + 0.5) / 5)
    assert "human" not in result  # a mean of nothing is left out


@pytest.mark.parametrize("name", ["all", "easy", "hard"])
def test_the_interval_holds_the_mean(name: str) -> None:
    given = agreement.measure(judge, ROWS * 5, PARAMS, seed=0)[name]
    assert 0 <= given["agreement_low"] < given["agreement"] < given["agreement_high"] <= 1


def test_the_judge_is_asked_with_the_rows_own_reference() -> None:
    asked = []

    def remember(cases: list[tuple[str, str, str]]) -> list[Score]:
        asked.extend(cases)
        return judge(cases)

    agreement.measure(remember, ROWS[:2], PARAMS, seed=0)
    assert sorted(asked) == sorted(
        ("Why?", row.reference, text) for row in ROWS[:2] for text in (row.chosen, row.rejected)
    )


def test_nothing_scored_is_counted_and_has_no_mean() -> None:
    result = agreement.measure(judge, ROWS[-1:], PARAMS, seed=0)
    assert result == {"pairs": 1, "unscored": 1, "without_reference": 0, "ties": 0}
