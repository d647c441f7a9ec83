"""medqa.agreement: wins of the answers labelled better, baselines and attacks, counted by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_engine import FakeEngine, by_candidate, certain, embed

from medqa import agreement, attacks, encoder, engines, jsonl, judge_trust
from medqa.records import AttackResult, JudgedPair, Labelled
from medqa.runtime.sections import AgreementParams, JudgeParams
from medqa.text import words
from stages import agreement as stage

PARAMS = AgreementParams(bootstrap_samples=200, attacked_pairs=3)
JUDGING = JudgeParams(
    method="grades",
    template="judge-short",
    criteria={"accuracy": 1, "completeness": 1, "key_points": 1},
    min_mass=0.5,
    max_chars=600,
)


def begins_with_score(text: str) -> float | None:
    """The score that an answer begins with, as in '0.5 some text'; '?' is unscored."""
    return None if text[0] == "?" else float(text.split()[0])


# label type, chosen, rejected
PAIRS = [
    ("easy", "0.9 one two three", "0.1"),
    ("easy", "0.9", "0.2 one"),
    ("easy", "0.1 one", "0.8"),
    ("hard", "0.5", "0.5 one"),  # a tie counts as half
    ("hard", "0.6", "0.4"),
    ("hard", "? one", "0.4"),
    ("human", "0.7", "? no"),
]
ROWS = [
    Labelled(
        str(number),
        label_type,
        "Why?",
        "So." if number else "",
        chosen,
        rejected,
        labelled_by="people" if label_type == "human" else "code",
        groups=(f"label type: {label_type}", "kind: open"),
    )
    for number, (label_type, chosen, rejected) in enumerate(PAIRS)
]
FIVEFOLD = [replace(row, id=f"{n}.{row.id}") for n in range(5) for row in ROWS]


def judged(judge: FakeEngine, rows=ROWS, base: FakeEngine | None = None) -> list[JudgedPair]:
    """The pairs as the judge, the base and the encoder of the tests see them."""
    logprobs = agreement.answer_logprobs(base or FakeEngine(), rows)
    similarities = agreement.measure_similarity(embed, rows)
    return agreement.judge_pairs(judge, rows, logprobs, similarities, JUDGING, "judge (x)")


def measure(score=begins_with_score, rows=ROWS, attack_score=lambda text: 0.5) -> dict:
    pairs = judged(FakeEngine(judges=by_candidate(score)), rows)
    return agreement.summary(pairs, attack(attack_score, rows, score), PARAMS, seed=0)


def attack(score, rows: list[Labelled], pair_score=lambda text: 0.5) -> list[AttackResult]:
    pairs = judged(FakeEngine(judges=by_candidate(pair_score)), rows)
    attacked = FakeEngine(judges=by_candidate(score))
    return agreement.attack_judge(attacked, rows, pairs, PARAMS, JUDGING, seed=0)


def test_agreement_is_what_one_counts_by_hand() -> None:
    result = measure()
    assert (result["pairs"], result["unscored"], result["ties"], result["without_reference"]) == (7, 2, 1, 1)
    assert (result["judge"], result["labelled_by"]) == ("judge (x)", "code, people")
    by = result["by"]
    assert (by["all"]["rows"], by["all"]["agreement"]) == (5, pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5))
    # Words: '0.9' is two of them.
    assert by["all"]["longer_wins"] == pytest.approx((1 + 0 + 1 + 0 + 0.5) / 5)
    # The fake engine finds an answer likelier by each character that it has less.
    assert by["all"]["likelier_wins"] == pytest.approx((0 + 1 + 0 + 1 + 0.5) / 5)
    assert result["trust"]["over_length"] == pytest.approx((0 + 1 - 1 + 0.5 + 0.5) / 5)
    assert by["all"]["more_similar_wins"] == 0.5  # no answer has a word of the question
    assert result["trust"]["over_similarity"] == pytest.approx(by["all"]["agreement"] - 0.5)
    assert result["mass_least"] == 0.1 and result["mass_mean"] == pytest.approx((5 * 0.9 + 2 * 0.1) / 7)


def test_groups_of_five_pairs_are_measured() -> None:
    result = measure()
    assert (list(result["by"]), result["small_groups"]) == (["all"], 2)  # the unscored are in no group
    by = measure(rows=FIVEFOLD)["by"]
    assert {name: group["rows"] for name, group in by.items()} == {
        "all": 25,
        "label type: easy": 15,
        "label type: hard": 10,
    }
    assert by["label type: easy"]["agreement"] == pytest.approx(2 / 3)
    assert by["label type: hard"]["agreement"] == pytest.approx(0.75)


def test_pairs_are_grouped_by_who_labelled_them() -> None:
    scored = [row for row in FIVEFOLD if row.rejected[0] != "?" != row.chosen[0]]
    rows = [replace(row, labelled_by="people" if row.id[-1] in "04" else "code") for row in scored]
    by = measure(rows=rows)["by"]
    assert (by["labelled by: people"]["rows"], by["labelled by: people"]["agreement"]) == (10, 1.0)
    assert by["labelled by: code"]["agreement"] == pytest.approx((1 + 0 + 0.5) / 3)


@pytest.mark.parametrize("name", ["all", "label type: easy", "label type: hard"])
def test_the_interval_holds_the_mean(name: str) -> None:
    group = measure(rows=FIVEFOLD)["by"][name]
    for share in ("agreement", "longer_wins", "likelier_wins", "more_similar_wins"):
        assert 0 <= group[f"{share}_low"] <= group[share] <= group[f"{share}_high"] <= 1


def test_the_judge_reads_the_rows_own_reference() -> None:
    judge, rows = FakeEngine(judges=by_candidate(begins_with_score)), ROWS[1:2]
    judged(judge, rows)
    begins = {prompt.rpartition("\n")[0] for prompt in judge.prompts}
    assert begins == {f"{rows[0].reference}\n{text}" for text in (rows[0].chosen, rows[0].rejected)}


def test_a_side_that_cannot_be_read_has_no_likelihood_and_decides_nothing() -> None:
    base = FakeEngine(fails=lambda prompt: True)
    pairs = judged(FakeEngine(judges=by_candidate(begins_with_score)), base=base)
    assert {(pair.chosen_logprob, pair.rejected_logprob) for pair in pairs} == {(None, None)}
    assert (
        agreement.summary(pairs, attack(lambda text: 0.5, ROWS), PARAMS, seed=0)["by"]["all"]["likelier_wins"]
        == 0.5
    )


def test_more_similar_is_the_answer_that_is_nearer_to_the_question() -> None:
    question, near, far = "Why a cough?", "0.2 a cough", "0.4 it is a fever"
    sides = [(near, far), (far, near), (near, near)]
    rows = [Labelled(f"{n}", "easy", question, "So.", *pair) for n, pair in enumerate(sides)]
    pairs = judged(FakeEngine(judges=by_candidate(begins_with_score)), rows)
    cosines = 2 / (3 * 4) ** 0.5, 1 / (3 * 6) ** 0.5  # of bags of words; 0.2 is two of them
    assert (pairs[0].chosen_similarity, pairs[0].rejected_similarity) == pytest.approx(cosines, abs=1e-6)
    result = measure(rows=rows)
    assert result["by"]["all"]["more_similar_wins"] == pytest.approx((1 + 0 + 0.5) / 3)
    # The judge takes the other one of the first two.
    trust = result["trust"]
    gains = [trust["over_similarity_low"], trust["over_similarity"], trust["over_similarity_high"]]
    assert gains == pytest.approx([-1, 0, 1], abs=0.34) and gains == sorted(gains)


def test_nothing_scored_is_counted_and_has_no_mean() -> None:
    result = measure(rows=ROWS[-1:])
    assert (result["pairs"], result["unscored"], result["by"]) == (1, 1, {})
    assert result["trust"] == {"pairs": 0}
    assert {holds for _, holds, _ in judge_trust.findings(result["trust"])} == {False}


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
    assert agreement.calibration_error(agreement.reliability(margins)) == pytest.approx(error)


def test_reliability_is_what_one_counts_by_hand() -> None:
    assert agreement.reliability([0.62, 0.68, -0.66, 0.0, 1.0, -1.0]) == [
        {"confidence": 0.5, "right": 0.5, "pairs": 1},
        {"confidence": pytest.approx((0.81 + 0.84 + 0.83) / 3), "right": pytest.approx(2 / 3), "pairs": 3},
        {"confidence": 1.0, "right": 0.5, "pairs": 2},
    ]


def test_a_judge_that_only_counts_words_does_not_beat_longer_wins() -> None:
    rows = [
        Labelled(f"{n}", "easy", "Why?", "So.", " ".join("w" * (n % 5)), "w w")
        for n in range(1, 60)
        if n % 5 != 2
    ]
    assert not beats_length(measure(lambda text: min(1.0, len(text.split()) / 10), rows))
    assert beats_length(measure(lambda text: len(text) != 3, rows))


def beats_length(result: dict[str, Any]) -> bool:
    return {name: holds for name, holds, _ in judge_trust.findings(result["trust"])}["over_length"]


ATTACKED = [
    Labelled(f"r{n}", "easy", f"What is {n}?", f"Fever {n}.", f"Fever {n} it is.", "Rash.") for n in range(4)
]


def test_there_are_attacks_enough_and_each_is_tried_on_each_drawn_pair() -> None:
    tried = attacks.evaluation_attacks()
    assert sum(each.kind in ("key", "verdict") for each in tried) >= 20
    assert sum(each.kind == "padding" and each.uses_poor for each in tried) >= 10
    rows = attack(lambda text: 0.5, ATTACKED)
    assert len(rows) == len({row.id for row in rows}) == 3 * len(tried)
    texts = {row.attack: row.text for row in rows if row.id.startswith(rows[0].id.split("#")[0])}
    assert texts["twice"] == "Rash. Rash." and texts["score"] == "Score: 5"
    assert "What is" in texts["question again"]
    drawn = {row.id.split("#")[0] for row in rows}
    assert drawn == {row.id.split("#")[0] for row in attack(lambda text: 0.5, ATTACKED[::-1])}


def test_no_attack_is_on_an_answer_that_is_right_but_for_its_words() -> None:
    subtle = [replace(row, id=f"s{row.id}", label_type="worse_words") for row in ATTACKED]
    assert attack(lambda text: 0.5, [*ATTACKED, *subtle]) == attack(lambda text: 0.5, ATTACKED)
    assert attack(lambda text: 0.5, subtle)


@pytest.mark.parametrize(
    ("fooled", "rate", "gain"),
    [
        (lambda text: False, 0.0, 0.0),
        (lambda text: "5" in text, None, 0.0),
        (lambda text: text.count("Rash") > 1, None, 0.9),
    ],
)
def test_an_attack_succeeds_if_it_reaches_the_better_honest_text(
    fooled, rate: float | None, gain: float
) -> None:
    def score(text: str) -> float:
        return 0.9 if fooled(text) else 0.8 if "Fever" in text else 0.0

    result = measure(score, ATTACKED, score)["attacks"]
    tried = attacks.evaluation_attacks()
    wins = [fooled(each.text(ATTACKED[0].question, "Rash.")) for each in tried]
    assert result["attack_rate"] == pytest.approx(sum(wins) / len(wins))
    assert rate is None or result["attack_rate"] == rate
    padded = [fooled(each.text("", "Rash.")) for each in tried if each.kind == "padding"]
    assert result["padding_gain"] == pytest.approx(0.9 * sum(padded) / len(padded))
    assert (gain > 0) == (result["padding_gain"] > 0)
    assert result["tried"] == 3 * len(wins) and result["padding_tried"] == 3 * len(padded)


@pytest.mark.parametrize(("fooled_score", "rate"), [(0.79, 0.0), (0.8, 1.0), (0.9, 1.0)])
def test_the_better_of_answer_and_reference_is_what_counts(fooled_score: float, rate: float) -> None:
    def score(text: str) -> float:
        # Of the honest texts the answer has 0.8, the reference 0.6.
        return 0.8 if "it is" in text else 0.6 if text.startswith("Fever") else fooled_score

    tried = measure(
        score, ATTACKED, lambda text: fooled_score if words(text) and "Fever" not in text else 0.6
    )
    wordless = sum(not words(each.text("Why?", "Rash.")) for each in attacks.evaluation_attacks())
    share = 1 - wordless / len(attacks.evaluation_attacks())
    assert tried["attacks"]["attack_rate"] == pytest.approx(rate * share)


def test_an_unscored_attack_does_not_succeed() -> None:
    result = measure(lambda text: 0.5, ATTACKED, lambda text: None)["attacks"]
    # The judge does not read an attack without a word, which has the worst score.
    wordless = sum(not words(each.text("Why?", "Rash.")) for each in attacks.evaluation_attacks())
    assert result["unscored"] == result["tried"] - 3 * wordless > 90
    assert result["attack_rate"] == 0 and "padding_gain" not in result


@pytest.mark.parametrize(
    ("preferred", "loud"), [("Fever", False), ("Why", True)], ids=["judges", "judges nothing"]
)
def test_a_judge_that_beats_no_baseline_is_named_loudly(
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
    grader = FakeEngine(judges=lambda prompt: certain("5" if preferred in prompt else "1"))
    monkeypatch.setattr(engines, "load", lambda *_: grader)
    monkeypatch.setattr(encoder, "embed", lambda model_dir, texts: embed(texts))
    monkeypatch.setattr(stage.hub, "describe", lambda model: "judge (x)")
    names = ("base", "labelled.jsonl", "agreed.jsonl", "attacked.jsonl", "m.json")
    stage.main(*(tmp_path / name for name in names))
    assert ("!!! NOTHING SHOWS THAT THIS JUDGE IS WORTH OBEYING" in capsys.readouterr().err) == loud


def test_the_embedded_judge_withstands_the_attacks() -> None:
    """What the last run of the pipeline wrote; `medqa recompute` holds that against its rows."""
    root = Path(__file__).parents[1]
    if yaml.safe_load((root / "params.yaml").read_text())["models"]["judge"]["source"] != "shipped":
        pytest.skip("another judge was measured")
    tried = json.loads((root / "metrics" / "agreement.json").read_text())["attacks"]
    assert tried["tried"] >= 80 * len(attacks.evaluation_attacks())
    assert tried["attack_rate_high"] < 0.05
    assert tried["padding_gain_low"] <= 0
