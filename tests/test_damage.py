"""medqa.sources.damage: the labels that a damaged answer deserves, and lessons that bear them out."""

import random
from itertools import islice
from pathlib import Path

import pytest

from medqa import attacks
from medqa.miniature import corrupted_answers, embedded
from medqa.miniature.corrupted_answers import Fact
from medqa.text import normalize

LURES = attacks.training_attacks()
CORPUS = Path(__file__).parents[1] / "medqa" / "miniature" / "corpus"
FACT = Fact(
    ("The signs include {points}.", "Seen are {points}."),
    ("fever", "rash", "cough"),
    ("gout", "anaemia", "vertigo", "oedema"),
    "Drink tea.",
    "What are the signs of measles?",
)


@pytest.mark.parametrize(
    ("right", "stated", "accuracy", "completeness", "key_points"),
    [
        ([True, True, True], 3, 4, 4, 4),
        ([False, False, False], 3, 0, 0, 0),
        ([False, False, False], 0, 0, 0, 0),
        ([True, False, False], 1, 4, 1, 2),  # the first point is half of the rank weights 3, 2, 1
        ([False, True, False], 1, 4, 1, 1),
        ([False, False, True], 1, 4, 1, 1),
        ([True, True, False], 2, 4, 3, 3),
        ([True, True, False], 3, 3, 3, 3),
        ([False, True, True], 3, 3, 3, 2),
        ([True, False, False], 2, 2, 1, 2),
        ([True, False, False], 3, 1, 1, 2),
        ([True], 1, 4, 4, 4),
    ],
)
def test_labels(right: list[bool], stated: int, accuracy: int, completeness: int, key_points: int) -> None:
    wanted = {"accuracy": accuracy, "completeness": completeness, "key_points": key_points}
    assert corrupted_answers.labels(right, stated) == wanted


@pytest.mark.parametrize(
    ("form", "points", "text"),
    [
        ("Signs: {points}.", ("fever",), "Signs: fever."),
        ("Signs: {points}.", ("fever", "rash"), "Signs: fever and rash."),
        ("Signs: {points}.", ("fever", "rash", "cough"), "Signs: fever, rash and cough."),
        ("{points}", ("It itches.", "It burns."), "It itches. It burns."),
        ("Signs: {points}.", ("{points}", "{name}"), "Signs: {points} and {name}."),
    ],
)
def test_worded(form: str, points: tuple[str, ...], text: str) -> None:
    assert corrupted_answers.worded(form, points) == text


def test_labels_follow_from_the_text_and_nothing_else() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(2000):
        lesson = corrupted_answers.judge_example(FACT, LURES, rng)
        assert lesson.reference == "The signs include fever, rash and cough."
        said = normalize(lesson.candidate).split()
        right = [point in said for point in FACT.points]
        stated = sum(right) + sum(point in said for point in FACT.wrong)
        assert lesson.labels == corrupted_answers.labels(right, stated), lesson.candidate
        assert stated or lesson.candidate == FACT.strange or lesson.labels == dict.fromkeys(lesson.labels, 0)
        seen.add(tuple(lesson.labels.values()))
    # Right, partly right, incomplete and worthless answers are all taught.
    assert {(4, 4, 4), (0, 0, 0), (4, 1, 2), (3, 3, 3)} <= seen


def test_the_same_seed_teaches_the_same_lesson() -> None:
    one, two = (corrupted_answers.judge_example(FACT, LURES, random.Random(5)) for _ in range(2))
    assert one == two


def test_embedded_facts_have_points_enough_and_no_point_on_both_sides() -> None:
    drawn = list(islice(embedded.facts(embedded.topics(CORPUS), random.Random(0)), 500))
    for fact in drawn:
        assert len(set(fact.points)) in (1, embedded.POINTS) and len(set(fact.wrong)) >= embedded.POINTS
        assert not set(fact.points) & set(fact.wrong)
        assert all(form.count("{points}") == 1 for form in fact.forms)
    # Points that came again and again under one condition would be learnt by heart.
    assert len({(fact.forms, fact.points) for fact in drawn}) == len(drawn)


def test_lures_and_padding_change_no_label() -> None:
    """A lesson with a lure in it bears the labels of the points that it states, as everywhere."""
    rng, lured, padded = random.Random(1), 0, 0
    for _ in range(3000):
        lesson = corrupted_answers.judge_example(FACT, LURES, rng)
        if not lesson.points:
            assert set(lesson.labels.values()) == {0}
        elif any(verdict in lesson.candidate for verdict in LURES.verdicts):
            lured += 1
        starts = [place[:1] for place in lesson.points]
        texts = [lesson.candidate[first:last] for first, last, _ in lesson.points]
        assert starts == sorted(starts)
        padded += len(set(texts)) < len(texts)
    assert lured > 200 and padded > 100


def test_what_is_taught_is_never_tried() -> None:
    taught = {normalize(text) for texts in (LURES.keys, LURES.verdicts, LURES.fillers) for text in texts}
    tried = {normalize(each.text("", "")) for each in attacks.evaluation_attacks()}
    assert not taught & (tried - {""}) and len(taught) > 40
