"""medqa.pairs: the pair that a policy makes of a question, or the one reason why there is none."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest

from medqa import jsonl, pairs
from medqa.pairs import REASONS
from medqa.records import Candidate, Judged, Pair, Score
from medqa.runtime.sections import PairsParams, PairsPolicy
from medqa.text import normalize, words
from stages import pairs as stage

REFERENCE = "The reference."
POLICIES = get_args(PairsPolicy)


def params(**changes: Any) -> PairsParams:
    """The parameters of the tests, with changes."""
    return PairsParams(**{"policy": "best_worst", "min_margin": 0.05, "max_length_ratio": None} | changes)


PARAMS = params()


def judged(
    question: str,
    sample: int,
    score: float | None,
    text: str,
    finish: str = "stop",
    reference: str = REFERENCE,
) -> Judged:
    prompt = f"What is {question}?"
    candidate = Candidate(f"{question}#{sample}", question, sample, prompt, reference, text, finish)
    scores = Score(score, score, score, score, 0.9, 0, "" if score is not None else "mass")
    return Judged(**asdict(candidate), **asdict(scores))


def question(name: str, *candidates: tuple) -> list[Judged]:
    return [judged(name, sample, *candidate) for sample, candidate in enumerate(candidates)]


TABLE = [
    # candidates: (score, text, finish); then the texts of the pair, or the reason why there is none
    ([(0.9, "good"), (0.1, "bad")], ("good", "bad")),
    ([(0.1, "bad"), (0.9, "good")], ("good", "bad")),
    ([(0.5, "so so"), (0.9, "good"), (0.1, "bad")], ("good", "bad")),
    ([(0.9, "good"), (0.1, "bad", "length")], ("good", "bad")),
    ([(0.9, "first"), (0.9, "second"), (0.1, "bad")], ("first", "bad")),
    ([(0.9, "good"), (0.1, "bad"), (0.1, "bad too")], ("good", "bad too")),
    ([(0.56, "good"), (0.5, "bad")], ("good", "bad")),
    ([(0.5, "good"), (0.5, "bad")], "tie"),
    ([(0.54, "good"), (0.5, "bad")], "tie"),
    ([(0.05, "good"), (0.0, "bad")], "tie"),
    ([(0.55, "good"), (0.5, "bad")], "tie"),  # exactly min_margin, but 0.55 - 0.5 > 0.05 in binary
    ([(0.9, "good"), (None, "bad")], "unscored"),
    ([(None, "good"), (None, "bad")], "unscored"),
    (
        [(0.9, "good"), (None, "best"), (0.1, "bad"), (None, "worst")],
        ("good", "bad"),
    ),  # these two cost themselves
    ([(0.9, "good"), (0.1, "bad"), (0.0, "")], ("good", "bad")),
    ([(0.9, "good"), (None, "bad"), (0.0, "")], "empty"),
    ([(0.9, "good")], "too_few"),
    ([(None, "good")], "too_few"),
    ([(0.9, "good"), (0.0, "")], "empty"),
    ([(0.9, "good"), (0.0, " ... ")], "empty"),
    ([(0.0, ""), (0.0, "")], "empty"),
    ([(0.9, "Chest pain."), (0.1, "chest  PAIN")], "same_text"),
    ([(0.9, "good", "length"), (0.1, "bad")], "cut_off"),
    ([(0.9, "go\ufffdod"), (0.1, "bad")], "broken"),
    ([(0.9, "good"), (0.1, "\ufffd")], "broken"),
    ([(0.9, "good"), (0.1, "half \ud83d pair")], "broken"),
    ([(0.9, "good"), (0.1, "nul \x00")], "broken"),
    ([(0.9, "good"), (0.1, "escape \x1b[1m")], "broken"),
    ([(0.9, "good"), (0.1, "delete \x7f")], "broken"),
    ([(0.9, "good"), (0.1, "C1 \x9b")], "broken"),
    ([(0.9, "go\ufffdod"), (0.1, "")], "broken"),
    ([(0.9, "good"), (0.5, "so so"), (0.1, "b\ufffdd")], ("good", "so so")),
    (
        [(0.9, "a\ttab\nand\r\nlines"), (0.1, "emoji 👩🏽\u200d⚕️")],
        ("a\ttab\nand\r\nlines", "emoji 👩🏽\u200d⚕️"),
    ),
]


@pytest.mark.parametrize(("candidates", "outcome"), TABLE)
def test_rules(candidates: list[tuple], outcome: tuple[str, str] | str) -> None:
    built, metrics = pairs.build(question("asthma", *candidates), PARAMS)
    counts = {reason: metrics[f"left_out_{reason}"] for reason in REASONS}
    if isinstance(outcome, str):
        assert built == []
        assert counts == {reason: int(reason == outcome) for reason in REASONS}
    else:
        scores = {text: score for score, text, *_ in candidates}
        best, worst = outcome
        assert built == [Pair("asthma", "What is asthma?", best, worst, scores[best], scores[worst])]
        assert set(counts.values()) == {0}
    assert metrics["questions"] == 1


@pytest.mark.parametrize(
    ("texts", "outcome"),
    [
        (("The answer is B: rash.", "Rash."), ("The answer is B: rash.", "Rash.")),
        (("Rash.", "The answer is B: rash."), "no_option"),
        (("The answer is A or B.", "The answer is C."), "no_option"),
        (("The answer is E.", "The answer is C."), "no_option"),
    ],
)
def test_the_chosen_answer_to_multiple_choice_names_an_option(texts: tuple[str, str], outcome: Any) -> None:
    options = "gout?\nA. fever\nB. rash\nC. cough\nD. pain\nWhich"
    built, metrics = pairs.build(question(options, (0.9, texts[0]), (0.1, texts[1])), PARAMS)
    if outcome == "no_option":
        assert built == [] and metrics["left_out_no_option"] == 1
    else:
        assert [(pair.chosen, pair.rejected) for pair in built] == [outcome]


@pytest.mark.parametrize(("margin", "count"), [(0.0, 2), (0.1, 1), (0.4, 0)])
def test_min_margin_is_exclusive(margin: float, count: int) -> None:
    rows = (
        question("a", (0.5, "x"), (0.4, "y"))
        + question("b", (0.5, "x"), (0.1, "y"))
        + question("c", (0, "x"), (0, "y"))
    )
    assert len(pairs.build(rows, params(min_margin=margin))[0]) == count


def test_every_question_is_a_pair_or_counted() -> None:
    rows = [
        row for number, (candidates, _) in enumerate(TABLE) for row in question(f"q{number}", *candidates)
    ]
    built, metrics = pairs.build(rows, PARAMS)
    assert metrics["questions"] == len(TABLE)
    assert metrics["pairs"] == len(built) == sum(isinstance(outcome, tuple) for _, outcome in TABLE)
    assert metrics["pairs"] + sum(metrics[f"left_out_{reason}"] for reason in REASONS) == len(TABLE)
    for shuffle in range(3):
        assert pairs.build(random.Random(shuffle).sample(rows, len(rows)), PARAMS) == (built, metrics)


def test_means_over_the_pairs() -> None:
    rows = question("a", (0.9, "one two three"), (0.1, "one")) + question("b", (0.8, "x"), (0.4, "y z"))
    metrics = pairs.build(rows, PARAMS)[1]
    assert metrics["margin_mean"] == pytest.approx(0.6)
    assert metrics["chosen_longer"] == 0.5
    equal = question("c", (0.8, "x y"), (0.4, "z x"))
    assert pairs.build(rows[:2] + equal, PARAMS)[1]["chosen_longer"] == 0.75  # a tie is half


@pytest.mark.parametrize(
    ("scores", "correlation"),
    [((0.1, 0.2, 0.3), 1), ((0.3, 0.2, 0.1), -1), ((0.2, 0.2, 0.2), 0), ((None, None, 0.1), 0)],
)
def test_correlation_of_score_and_length(scores: tuple[float | None, ...], correlation: float) -> None:
    rows = question("a", *((score, "word " * length) for length, score in enumerate(scores, 1)))
    assert pairs.build(rows, PARAMS)[1]["score_length_correlation"] == pytest.approx(correlation)


def test_no_rows_are_no_pairs() -> None:
    built, metrics = pairs.build([], PARAMS)
    assert built == []
    assert set(metrics.values()) == {0}


@pytest.mark.parametrize(("ratio", "kept"), [(None, 3), (4.0, 3), (3.9, 2), (2.0, 2), (1.9, 1), (1.0, 1)])
def test_the_length_rule_drops_pairs_that_length_may_decide(ratio: float | None, kept: int) -> None:
    rows = (
        question("a", (0.9, "one two"), (0.1, "three four"))
        + question("b", (0.9, "one"), (0.1, "two three"))
        + question("c", (0.9, "one two three four"), (0.1, "five"))
    )
    built, metrics = pairs.build(rows, params(max_length_ratio=ratio))
    assert (len(built), metrics["left_out_length"]) == (kept, 3 - kept)


@pytest.mark.parametrize("policy", POLICIES)
def test_fuzzed_pairs_hold_every_promise(policy: str) -> None:
    """Whatever the candidates: no bad pair, none changed by their order, and the counts add up to the
    questions.
    """
    rng = random.Random(0)
    texts = ["", " ", "...", "Fever.", "fever", "FEVER!", "rash", "a rash", "ﬁ", "fi", "\ufffd rash"]
    texts.append("one two three four five six")
    references = ["Fever.", "one two", "rash", "", "\ufffd"]
    rows = []
    for name in range(2000):
        reference = rng.choice(references)
        for sample in range(rng.randint(0, 8)):
            score = rng.choice([None, 0.0, 0.5, 0.55, 0.5500001, 1.0, rng.random()])
            finish = rng.choice(["stop", "stop", "length"])
            rows.append(judged(f"q{name}", sample, score, rng.choice(texts), finish, reference))
    limited = params(policy=policy, max_length_ratio=3.0)
    built, metrics = pairs.build(rows, limited)
    by_text = {(row.question_id, row.text, row.score) for row in rows}
    of_question = {row.question_id: row.reference for row in rows}
    for pair in built:
        assert (
            normalize(pair.chosen) != normalize(pair.rejected) and words(pair.chosen) and words(pair.rejected)
        )
        assert "\ufffd" not in pair.chosen + pair.rejected
        assert round(pair.chosen_score - pair.rejected_score, 6) > 0.05
        if policy == "reference":
            assert (pair.chosen, pair.chosen_score) == (of_question[pair.id], 1.0)
        else:
            assert (pair.id, pair.chosen, pair.chosen_score) in by_text
        assert (pair.id, pair.rejected, pair.rejected_score) in by_text
    assert metrics["candidates_unscored"] == sum(row.score is None for row in rows)
    scored = [row.text for row in rows if row.score is not None]
    assert metrics["candidates_broken"] == sum("\ufffd" in text for text in scored)
    assert metrics["candidates_empty"] == sum(not words(text) for text in scored)
    reasons = {reason for reason in REASONS if metrics[f"left_out_{reason}"]}
    absent = {"no_option"} | ({"too_few", "cut_off"} if policy == "reference" else {"no_reference"})
    assert len(built) > 100 and reasons == REASONS.keys() - absent
    assert metrics["questions"] == len(of_question)
    assert metrics["questions"] == len(built) + sum(metrics[f"left_out_{reason}"] for reason in REASONS)
    assert pairs.build(rows[::-1], limited) == (built, metrics)


def chosen_and_rejected(policy: str, candidates: list[tuple], reference: str = REFERENCE) -> Any:
    """The sides of the pair, or the reason why there is none."""
    rows = [
        judged("q", sample, score, text, finish, reference)
        for sample, (score, text, finish) in enumerate((*row, "stop")[:3] for row in candidates)
    ]
    built, metrics = pairs.build(rows, params(policy=policy))
    if built:
        return built[0].chosen, built[0].rejected
    return next(reason for reason in REASONS if metrics[f"left_out_{reason}"])


@pytest.mark.parametrize(("candidates", "_"), TABLE)
def test_two_deviations_below_the_mean_of_few_candidates_is_the_worst(
    candidates: list[tuple], _: Any
) -> None:
    worst, two_sd = (pairs.build(question("q", *candidates), params(policy=name)) for name in POLICIES[:2])
    assert worst == two_sd


@pytest.mark.parametrize("size", range(2, 11))
def test_two_deviations_below_the_mean_is_the_worst_of_up_to_ten(size: int) -> None:
    """Also in the worst case, in which all but the two lowest scores are equal."""
    rng = random.Random(0)
    groups = [[0.0, rng.random(), *[1.0] * (size - 2)] for _ in range(100)]
    groups += [[rng.choice([0.1, 0.9, rng.random()]) for _ in range(size)] for _ in range(100)]
    rows = []
    for name, scores in enumerate(groups):
        rows += question(f"q{name:03}", *((score, f"text {sample}") for sample, score in enumerate(scores)))
    worst, two_sd = (pairs.build(rows, params(policy=name)) for name in POLICIES[:2])
    assert worst == two_sd and len(worst[0]) > 100


@pytest.mark.parametrize(
    ("scores", "rejected"),
    [
        ([*[1.0] * 14, 0.3, 0.0], 14),  # 0.89 - 2 * 0.29 = 0.32
        ([0.0, 0.3, *[1.0] * 14], 1),  # in whatever order
        ([*[1.0] * 10, *[0.9] * 3, 0.0, 0.0, 0.0], 15),  # 0.79 - 2 * 0.38 = 0.03
        # 63 perfect candidates would be nearest; but the rejected one has to be worse than the chosen.
        ([0.0, *[1.0] * 63], 0),
        ([*[1.0] * 63, 0.0], 63),
    ],
)
def test_two_deviations_below_the_mean(scores: list[float], rejected: int) -> None:
    candidates = [(score, f"text {sample}") for sample, score in enumerate(scores)]
    best = scores.index(max(scores))
    assert chosen_and_rejected("best_two_sd", candidates) == (f"text {best}", f"text {rejected}")


@pytest.mark.parametrize(
    ("candidates", "reference", "outcome"),
    [
        ([(0.9, "good"), (0.1, "bad")], REFERENCE, (REFERENCE, "bad")),
        ([(0.9, "good", "length"), (0.1, "bad")], REFERENCE, (REFERENCE, "bad")),
        ([(0.1, "bad")], REFERENCE, (REFERENCE, "bad")),  # one candidate is enough
        ([(0.9, "good"), (None, "bad")], REFERENCE, (REFERENCE, "good")),
        ([(1.0, "good"), (0.97, "as good")], REFERENCE, "tie"),  # the judge finds nothing to reject
        ([(0.9, "good"), (0.1, "the REFERENCE")], REFERENCE, "same_text"),
        ([(None, "good"), (None, "bad")], REFERENCE, "unscored"),
        ([(0.9, "\ufffd"), (0.1, "\x07")], REFERENCE, "broken"),
        ([(0.9, ""), (0.1, "...")], REFERENCE, "empty"),
        ([(0.9, "good"), (0.1, "bad")], "", "no_reference"),
        ([(0.9, "good"), (0.1, "bad")], " ... ", "no_reference"),
        ([(0.9, "good"), (0.1, "bad")], "The re\ufffderence.", "no_reference"),
    ],
)
def test_a_reference_is_chosen_as_if_perfect(candidates: list[tuple], reference: str, outcome: Any) -> None:
    assert chosen_and_rejected("reference", candidates, reference) == outcome


def test_a_chosen_reference_counts_in_margin_and_length() -> None:
    built, metrics = pairs.build(
        question("a", (0.25, "three more words"), (0.5, "x")), params(policy="reference")
    )
    assert (built[0].chosen_score, built[0].rejected_score) == (1.0, 0.25)
    assert (metrics["margin_mean"], metrics["chosen_longer"]) == (0.75, 0.0)
    long = pairs.build(question("a", (0.1, "x")), params(policy="reference", max_length_ratio=1.9))
    assert long[1]["left_out_length"] == 1


def test_one_question_is_in_memory_at_a_time() -> None:
    read = []

    def rows():
        for name in "abcd":
            for row in question(name, (0.9, "good"), (0.1, "bad")):
                read.append(row.id)
                yield row

    for pair in pairs.stream(rows(), PARAMS, pairs.Tally()):
        last = read[-1]
        assert last == ("d#1" if pair.id == "d" else f"{chr(ord(pair.id) + 1)}#0")


def test_candidates_of_similar_ids_are_grouped_by_question() -> None:
    """In the order of candidate ids, no other question is between the candidates of one."""
    names = ["q", "q!", "q 1", "q%23", "q%230", "q1", "q~2", "r"]
    rows = [
        judged(name, sample, score, f"{name} {sample}")
        for name in names
        for sample, score in enumerate([0.9, *[0.5] * 10, 0.1])
    ]
    built, metrics = pairs.build(rows, PARAMS)
    assert [pair.id for pair in built] == sorted(names)
    assert [pair.rejected for pair in built] == [f"{name} 11" for name in sorted(names)]
    assert metrics["pairs"] == metrics["questions"] == len(names)


def test_the_stage_says_why_there_is_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    rows = [
        judged("a", 0, None, "one"),
        judged("a", 1, 0.5, "two"),
        judged("b", 0, 0.5, "x"),
        judged("b", 1, 0.5, "y"),
    ]
    jsonl.write(tmp_path / "judged.jsonl", rows)
    line = stage.main(tmp_path / "judged.jsonl", tmp_path / "pairs.jsonl", tmp_path / "pairs.json")
    assert line.startswith("0 pairs from 2 questions; left out: ")
    assert "too few candidates with a score (1)" in line and "margin at or under the floor (1)" in line
