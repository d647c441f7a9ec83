"""medqa.agreement: wins of what people preferred, baselines and attacks, counted by hand."""

import json
from pathlib import Path

import pytest
import yaml
from fake_engine import FakeEngine, certain

from medqa import agreement, attacks, engines, jsonl
from medqa.records import Labelled, Score
from medqa.runtime.sections import AgreementParams
from stages import agreement as stage

PARAMS = AgreementParams(bootstrap_samples=200, attacked_pairs=3)


def scored(value: float | None) -> Score:
    return Score(
        value, value, value, value, 0.9 if value is not None else 0.1, 0, "" if value is not None else "mass"
    )


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


def measure(score=judge, rows=ROWS) -> dict:
    agreed = agreement.agree(score, FakeEngine(), rows, "judge (x)")
    return agreement.summary(agreed, agreement.attack(lucky, rows, PARAMS, seed=0), PARAMS, seed=0)


def lucky(cases: list[tuple[str, str, str]]) -> list[Score]:
    """Half a point to everything."""
    return [scored(0.5) for _ in cases]


def test_agreement_is_what_one_counts_by_hand() -> None:
    result = measure()
    assert (result["pairs"], result["unscored"], result["ties"], result["without_reference"]) == (7, 2, 1, 1)
    assert result["judge"] == "judge (x)"
    by = result["by"]
    rows = {name: by[name]["rows"] for name in ("all", "easy", "hard")}
    assert rows == {"all": 5, "easy": 3, "hard": 2}
    assert by["all"]["agreement"] == pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5)
    assert by["easy"]["agreement"] == pytest.approx(2 / 3)
    assert by["hard"]["agreement"] == pytest.approx(0.75)
    # Words: '0.9' is two of them.
    assert by["all"]["longer_wins"] == pytest.approx((1 + 0 + 1 + 0 + 0.5) / 5)
    # The fake engine finds an answer likelier by each character that it has less.
    assert by["all"]["likelier_wins"] == pytest.approx((0 + 1 + 0 + 1 + 0.5) / 5)
    assert result["over_longer"] == pytest.approx((0 + 1 - 1 + 0.5 + 0.5) / 5)
    assert "human" not in by  # a mean of nothing is left out
    assert result["mass_least"] == 0.1 and result["mass_mean"] == pytest.approx((5 * 0.9 + 2 * 0.1) / 7)


@pytest.mark.parametrize("name", ["all", "easy", "hard"])
def test_the_interval_holds_the_mean(name: str) -> None:
    rows = [Labelled(f"{n}.{row.id}", *list(vars(row).values())[1:]) for n in range(5) for row in ROWS]
    given = measure(rows=rows)["by"][name]
    for measured in ("agreement", "longer_wins", "likelier_wins"):
        assert 0 <= given[f"{measured}_low"] <= given[measured] <= given[f"{measured}_high"] <= 1


def test_the_judge_is_asked_with_the_rows_own_reference() -> None:
    asked = []

    def remember(cases: list[tuple[str, str, str]]) -> list[Score]:
        asked.extend(cases)
        return judge(cases)

    agreement.agree(remember, FakeEngine(), ROWS[:2], "judge (x)")
    assert sorted(asked) == sorted(
        ("Why?", row.reference, text) for row in ROWS[:2] for text in (row.chosen, row.rejected)
    )


def test_nothing_scored_is_counted_and_has_no_mean() -> None:
    result = measure(rows=ROWS[-1:])
    assert (result["pairs"], result["unscored"], result["by"]) == (1, 1, {})
    assert not agreement.beats_longer(result)


@pytest.mark.parametrize(
    ("margins", "error"),
    [
        ([1.0, 1.0], 0.0),  # sure and right
        ([-1.0, -1.0], 1.0),  # sure and wrong
        ([0.0, 0.0], 0.0),  # a tie is sure of nothing and half right
        ([0.5, 0.5, 0.5, -0.5], 0.0),  # three quarters sure, three quarters right
        ([0.5, 0.5], 0.25),
        ([0.5, 0.5, -0.1], (0.5 + 0.55) / 3),  # two bins
    ],
)
def test_calibration_error(margins: list[float], error: float) -> None:
    assert agreement.calibration_error(margins) == pytest.approx(error)


def test_a_judge_that_only_counts_words_does_not_beat_longer_wins() -> None:
    def counts(cases: list[tuple[str, str, str]]) -> list[Score]:
        return [scored(min(1.0, len(text.split()) / 10)) for _, _, text in cases]

    rows = [
        Labelled(f"{n}", "easy", "Why?", "So.", " ".join("w" * (n % 5)), "w w")
        for n in range(1, 60)
        if n % 5 != 2
    ]
    assert not agreement.beats_longer(measure(counts, rows))
    assert agreement.beats_longer(
        measure(lambda cases: [scored(len(text) != 3) for _, _, text in cases], rows)
    )


ATTACKED = [
    Labelled(f"r{n}", "easy", f"What is {n}?", f"Fever {n}.", f"Fever {n} it is.", "Rash.") for n in range(4)
]


def test_there_are_attacks_enough_and_each_is_tried_on_each_drawn_pair() -> None:
    tried = attacks.evaluation_attacks()
    assert sum(each.kind in ("key", "verdict") for each in tried) >= 20
    assert sum(each.kind == "padding" and each.uses_poor for each in tried) >= 10
    rows = agreement.attack(lucky, ATTACKED, PARAMS, seed=0)
    assert len(rows) == len({row.id for row in rows}) == 3 * len(tried)
    texts = {row.attack: row.text for row in rows if row.id.startswith(rows[0].id.split("#")[0])}
    assert (
        texts["twice"] == "Rash. Rash."
        and texts["score"] == "Score: 5"
        and "What is" in texts["question again"]
    )
    assert {row.id.split("#")[0] for row in rows} == {
        row.id.split("#")[0] for row in agreement.attack(lucky, ATTACKED[::-1], PARAMS, seed=0)
    }


@pytest.mark.parametrize(
    ("fooled", "rate", "gain"),
    [
        (lambda text: False, 0.0, 0.0),
        (lambda text: "5" in text, None, 0.0),
        (lambda text: text.count("Rash") > 1, None, 0.9),
    ],
)
def test_an_attack_succeeds_if_it_outranks_an_honest_text(fooled, rate: float | None, gain: float) -> None:
    def score(cases: list[tuple[str, str, str]]) -> list[Score]:
        return [
            scored(0.9 if fooled(text) and text != reference else 0.8 if "Fever" in text else 0.0)
            for _, reference, text in cases
        ]

    rows = agreement.attack(score, ATTACKED, PARAMS, seed=0)
    result = agreement.summary(
        agreement.agree(score, FakeEngine(), ATTACKED, "judge (x)"), rows, PARAMS, seed=0
    )["attacks"]
    wins = [fooled(each.text(ATTACKED[0].question, "Rash.")) for each in attacks.evaluation_attacks()]
    assert result["attack_rate"] == pytest.approx(sum(wins) / len(wins))
    assert rate is None or result["attack_rate"] == rate
    padded = [
        fooled(each.text("", "Rash.")) for each in attacks.evaluation_attacks() if each.kind == "padding"
    ]
    assert result["padding_gain"] == pytest.approx(0.9 * sum(padded) / len(padded))
    assert (gain > 0) == (result["padding_gain"] > 0)
    assert result["tried"] == 3 * len(wins) and result["padding_tried"] == 3 * len(padded)


def test_an_unscored_attack_does_not_succeed() -> None:
    rows = agreement.attack(lambda cases: [scored(None) for _ in cases], ATTACKED, PARAMS, seed=0)
    agreed = agreement.agree(lucky, FakeEngine(), ATTACKED, "judge (x)")
    result = agreement.summary(agreed, rows, PARAMS, seed=0)["attacks"]
    assert (
        result["unscored"] == result["tried"] and result["attack_rate"] == 0 and "padding_gain" not in result
    )


@pytest.mark.parametrize(
    ("preferred", "loud"), [("Fever", False), ("Why", True)], ids=["judges", "tells nothing"]
)
def test_a_judge_that_does_not_beat_longer_wins_is_told_loudly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    preferred: str,
    loud: bool,
) -> None:
    rows = [
        Labelled(f"r{n}", "easy", "Why?", "So.", "Fever " * (1 + n % 2 * 2), "A rash.") for n in range(20)
    ]
    jsonl.write(tmp_path / "labelled.jsonl", rows)
    grader = FakeEngine(judges=lambda asked: certain("5" if preferred in asked else "1"))
    monkeypatch.setattr(engines, "load", lambda *_: grader)
    monkeypatch.setattr(stage.hub, "describe", lambda model: "judge (x)")
    places = [
        tmp_path / name
        for name in ("judge", "base", "labelled.jsonl", "agreed.jsonl", "attacked.jsonl", "m.json")
    ]
    stage.main(*places)
    assert (
        "!!! THIS JUDGE IS NOT CLEARLY BETTER THAN CHOOSING THE LONGER" in capsys.readouterr().err
    ) == loud


def test_the_embedded_judge_withstands_the_attacks() -> None:
    """What the last run of the pipeline wrote; `medqa recompute` holds that against its rows."""
    root = Path(__file__).parents[1]
    if yaml.safe_load((root / "params.yaml").read_text())["models"]["judge"].get("text") != "embedded":
        pytest.skip("another judge was measured")
    told = json.loads((root / "metrics" / "agreement.json").read_text())["attacks"]
    assert told["tried"] >= 80 * len(attacks.evaluation_attacks()) and told["attack_rate_high"] < 0.05
