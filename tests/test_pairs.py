"""medqa.pairs: the best candidate against the worst, or the one reason why there is no pair."""

import random
from dataclasses import asdict

import pytest

from medqa import pairs
from medqa.pairs import REASONS
from medqa.records import Candidate, Judged, Pair, Score
from medqa.runtime.sections import PairsParams
from medqa.text import normalize, words

PARAMS = PairsParams(min_margin=0.05, max_length_ratio=None)


def judged(question: str, sample: int, score: float | None, text: str, finish: str = "stop") -> Judged:
    prompt = f"What is {question}?"
    candidate = Candidate(f"{question}#{sample}", question, sample, prompt, "The reference.", text, finish)
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


@pytest.mark.parametrize(("margin", "count"), [(0.0, 2), (0.1, 1), (0.4, 0)])
def test_min_margin_is_exclusive(margin: float, count: int) -> None:
    rows = (
        question("a", (0.5, "x"), (0.4, "y"))
        + question("b", (0.5, "x"), (0.1, "y"))
        + question("c", (0, "x"), (0, "y"))
    )
    assert len(pairs.build(rows, PairsParams(min_margin=margin, max_length_ratio=None))[0]) == count


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
    built, metrics = pairs.build(rows, PairsParams(min_margin=0.05, max_length_ratio=ratio))
    assert (len(built), metrics["left_out_length"]) == (kept, 3 - kept)


def test_fuzzed_pairs_hold_every_promise() -> None:
    """Whatever the candidates: no bad pair, none changed by their order, and the counts add up to the
    questions.
    """
    rng = random.Random(0)
    texts = [
        "",
        " ",
        "...",
        "Fever.",
        "fever",
        "FEVER!",
        "rash",
        "a rash",
        "ﬁ",
        "fi",
        "one two three four five six",
    ]
    rows = []
    for name in range(2000):
        for sample in range(rng.randint(1, 4)):
            score = rng.choice([None, 0.0, 0.5, 0.55, 0.5500001, 1.0, rng.random()])
            rows.append(
                judged(f"q{name}", sample, score, rng.choice(texts), rng.choice(["stop", "stop", "length"]))
            )
    params = PairsParams(min_margin=0.05, max_length_ratio=3.0)
    built, metrics = pairs.build(rows, params)
    by_text = {(row.question_id, row.text, row.score) for row in rows}
    for pair in built:
        assert (
            normalize(pair.chosen) != normalize(pair.rejected) and words(pair.chosen) and words(pair.rejected)
        )
        assert round(pair.chosen_score - pair.rejected_score, 6) > 0.05
        assert (pair.id, pair.chosen, pair.chosen_score) in by_text
        assert (pair.id, pair.rejected, pair.rejected_score) in by_text
    assert metrics["candidates_unscored"] == sum(row.score is None for row in rows)
    assert metrics["candidates_empty"] == sum(row.score is not None and not words(row.text) for row in rows)
    assert len(built) > 100 and all(metrics[f"left_out_{reason}"] > 10 for reason in REASONS)
    assert (
        metrics["questions"] == 2000 == len(built) + sum(metrics[f"left_out_{reason}"] for reason in REASONS)
    )
    assert pairs.build(rows[::-1], params) == (built, metrics)


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
