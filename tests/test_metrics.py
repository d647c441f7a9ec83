"""medqa.metrics: what an answer covers, the option it settles on, and intervals that hold what they promise."""

import random

import numpy as np
import pytest

from medqa import metrics

CHOICES = [
    # Just the letter.
    ("B", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("b", "B"),
    ("c)", "C"),
    ("**D**", "D"),
    ("\uff22", "B"),  # full-width
    ("\uff08\uff23\uff09", "C"),
    ("A. Aspirin", "A"),
    ("D: fever", "D"),
    ("C - stroke", "C"),
    ("B\n\nExplanation: C is a beta blocker, D a diuretic.", "B"),
    # The letter that is called the answer.
    ("Answer: (B)", "B"),
    ("Answer: b", "B"),
    ("answer is c.", "C"),
    ("The answer is B: chest pain.", "B"),
    ("The correct answer is option D.", "D"),
    ("**Answer:** C", "C"),
    ("### Answer\nB", "B"),
    ("The best answer would be A because aspirin is given first.", "A"),
    ("Answer\uff1a\uff22", "B"),
    (r"\boxed{C}", "C"),
    (r"So the dose is halved: $\boxed{\text{(D)}}$", "D"),
    (r"The final answer is \(\mathrm{A}\).", "A"),
    ("A patient with chest pain needs aspirin. Answer: B", "B"),
    ("A. rest\nB. aspirin\nC. surgery\nD. fluids\nAnswer: C", "C"),
    ("Option A is wrong. Option B is wrong. The answer is C.", "C"),
    # Other ways to say it.
    ("Option D is correct", "D"),
    ("B is the correct answer.", "B"),
    ("Of these, (C) is right.", "C"),
    ("I choose option a.", "A"),
    ("I would go with B.", "B"),
    ("I think it's D.", "D"),
    ("Option A is incorrect, option C is correct.", "C"),
    # Denials.
    ("The answer is not B", ""),
    ("The answer isn't C.", ""),
    ("The answer is not A but C", "C"),
    ("The answer isn't B, it's D.", "D"),
    ("The answer isn\u2019t B, it\u2019s D.", "D"),
    ("It is not A. The answer is C.", "C"),
    ("The answer is not A, the answer is C.", "C"),
    ("The answer is A, not B.", "A"),
    ("The answer is A rather than D.", "A"),
    ("The answer is neither A nor B.", ""),
    ("I would not choose B.", ""),
    ("Option B is not correct.", ""),
    # Several, or none.
    ("It could be A or C", ""),
    ("The answer is A or C.", ""),
    ("Answer: B, D", ""),
    ("A and C", ""),
    ("A. rest\nB. aspirin", ""),
    ("The answer is A. No, the answer is C.", ""),
    ("I am not sure", ""),
    ("I cannot answer a medical question. Please see a doctor.", ""),
    ("None of the above", ""),
    ("", ""),
    # Letters that are no option.
    ("A patient with fever needs rest.", ""),
    ("The answer is a beta blocker.", ""),
    ("The best option is a diuretic.", ""),
    ("The answer is hepatitis B.", ""),
    ("Vitamin D is given.", ""),
    ("B cells make antibodies.", ""),
    ("The answer is C-reactive protein.", ""),
    ("Answer: A1c", ""),
    ("As an AI, I cannot say.", ""),
    ("E", ""),
]


@pytest.mark.parametrize(("answer", "letter"), CHOICES)
def test_choice(answer: str, letter: str) -> None:
    assert metrics.choice(answer) == letter


def test_choice_takes_no_time_over_a_long_answer() -> None:
    assert metrics.choice("the answer is the option " * 2000 + "B, A or " * 2000) == ""


@pytest.mark.parametrize(
    ("answer", "point", "held"),
    [
        ("It causes Chest  pain, mostly.", "chest pain", True),
        ("pain in the chest", "chest pain", False),  # short points count word for word
        ("chest pains", "chest pain", False),
        ("", "chest pain", False),
        ("Drink water and rest, avoid smoke.", "Drink water, rest, and avoid all alcohol.", True),
        ("Drink water and rest.", "Drink water, rest, and avoid all alcohol.", False),
        ("anything", "That is as it was.", False),  # nothing but stop words: they must be there
        ("as that is, it was", "That is as it was.", True),
    ],
)
def test_covers(answer: str, point: str, held: bool) -> None:
    assert metrics.covers(answer, point) == held


def test_key_point_recall_is_a_share() -> None:
    assert metrics.key_point_recall("fever and a rash", ["fever", "rash", "chest pain"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("fever, rash", "Rash. Fever!", 1),
        ("fever", "rash", 0),
        ("", "rash", 0),
        ("", "", 0),
        ("fever fever", "fever", 2 / 3),
        ("a b c d", "a b", 2 / 3),
    ],
)
def test_token_f1(answer: str, reference: str, f1: float) -> None:
    assert metrics.token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("Fever, rash.", "fever rash!", 1),
        ("rash fever", "fever rash", 1 / 2),  # either word, but not both in order
        ("fever", "rash", 0),
        ("", "rash", 0),
        ("", "", 0),
        ("fever fever", "fever", 2 / 3),
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # as in the paper
        ("the gunman kill police", "police killed the gunman", 1 / 2),
        ("a x b y c z", "a b c", 2 * 3 / (6 + 3)),
        ("a b c d e f g", "c d x a b e", 2 * 3 / (7 + 6)),  # a b e, or c d e
    ],
)
def test_rouge_l(answer: str, reference: str, f1: float) -> None:
    assert metrics.rouge_l(answer, reference) == pytest.approx(f1)
    assert metrics.rouge_l(reference, answer) == metrics.rouge_l(answer, reference)


def table_of_lengths(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence by the textbook's table."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[-1]))
        above = row
    return above[-1]


def test_common_subsequences_are_as_long_as_the_textbook_says() -> None:
    draw = random.Random(0)
    for _ in range(300):
        first, second = (draw.choices("abcdefgh"[: draw.randint(1, 8)], k=draw.randint(0, 90)) for _ in range(2))
        assert metrics.longest_common_subsequence(first, second) == table_of_lengths(first, second)


@pytest.mark.parametrize(
    ("answer", "share"),
    [("", 0), ("a b c", 0), ("a b c d", 0), ("a a a a", 1 / 2), ("a b c a b c", 1 / 4), ("a b c. A B C a b c", 4 / 7)],
)
def test_repetition(answer: str, share: float) -> None:
    assert metrics.repetition(answer) == pytest.approx(share)


def test_mean_interval_covers_the_true_mean_in_95_of_100_trials() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(1000):
        mean, low, high = metrics.mean_interval(rng.normal(3, 2, size=100), seed=trial, samples=400)
        assert low <= mean <= high
        covered += low <= 3 <= high
    assert 930 <= covered <= 970


def test_mean_interval_is_determined_by_its_seed() -> None:
    values = [0.1, 0.5, 0.9, 0.4]
    assert metrics.mean_interval(values, 1, 100) == metrics.mean_interval(values, 1, 100)
    assert metrics.mean_interval(values, 1, 100)[1:] != metrics.mean_interval(values, 2, 100)[1:]
    assert metrics.mean_interval([0.5], 0, 100) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([1.0] * 552, 0.99334, 1), ([0.0] * 80, 0, 0.04506), ([0.0], 0, 0.975), ([1.0], 0.025, 1), ([0.5] * 9, 0.5, 0.5)],
)
def test_a_share_is_never_certain(values: list[float], low: float, high: float) -> None:
    assert metrics.share_interval(values, 0, 100) == pytest.approx((values[0], low, high), abs=1e-5)


def test_a_share_between_is_bootstrapped() -> None:
    values = [1.0] * 9 + [0.0]
    assert metrics.share_interval(values, 0, 200) == metrics.mean_interval(values, 0, 200)
