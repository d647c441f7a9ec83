"""medqa.miniature.corrupted_answers: labels follow from the points that an answer covers."""

import random
from itertools import islice

import pytest
from conftest import CORPUS

from medqa import attacks
from medqa.miniature import corrupted_answers, embedded, training_text
from medqa.miniature.corrupted_answers import Fact
from medqa.text import normalize

ADVERSARIAL = attacks.training_attacks()
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
        ([True, True, True], 2, 4, 4, 4),  # the reference says a point twice
    ],
)
def test_labels(right: list[bool], stated: int, accuracy: int, completeness: int, key_points: int) -> None:
    expected = {"accuracy": accuracy, "completeness": completeness, "key_points": key_points}
    assert corrupted_answers.labels(right, stated) == expected


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
def test_a_form_is_filled(form: str, points: tuple[str, ...], text: str) -> None:
    assert embedded.fill(form, points) == text


def test_labels_follow_from_the_text_and_nothing_else() -> None:
    rng, label_sets = random.Random(0), set()
    for _ in range(2000):
        example = corrupted_answers.judge_example(FACT, ADVERSARIAL, rng)
        assert example.reference == "The signs include fever, rash and cough."
        words = normalize(example.candidate).split()
        right = [point in words for point in FACT.points]
        stated = sum(right) + sum(point in words for point in FACT.wrong_points)
        assert example.labels == corrupted_answers.labels(right, stated), example.candidate
        assert stated or example.candidate == FACT.off_topic or set(example.labels.values()) == {0}
        label_sets.add(tuple(example.labels.values()))
    # Right, partly right, incomplete and worthless answers all occur.
    assert {(4, 4, 4), (0, 0, 0), (4, 1, 2), (3, 3, 3)} <= label_sets


def test_the_same_seed_makes_the_same_example() -> None:
    first, second = (corrupted_answers.judge_example(FACT, ADVERSARIAL, random.Random(5)) for _ in range(2))
    assert first == second


def test_embedded_facts_have_points_enough_and_no_point_on_both_sides() -> None:
    facts = training_text.embedded_facts(embedded.topics(CORPUS), random.Random(0))
    drawn = list(islice(facts, 500))
    for fact in drawn:
        assert len(set(fact.points)) in (1, embedded.POINTS)
        assert len(set(fact.wrong_points)) >= embedded.POINTS
        assert not set(fact.points) & set(fact.wrong_points)
        assert all(form.count("{points}") == 1 for form in fact.forms)
    # Points that came again and again under one condition would be learnt by heart.
    assert len({(fact.forms, fact.points) for fact in drawn}) == len(drawn)


def test_adversarial_texts_and_padding_change_no_label() -> None:
    rng, praised, padded = random.Random(1), 0, 0
    for _ in range(3000):
        example = corrupted_answers.judge_example(FACT, ADVERSARIAL, rng)
        if not example.spans:
            assert set(example.labels.values()) == {0}
        elif any(verdict in example.candidate for verdict in ADVERSARIAL.verdicts):
            praised += 1
        points = [example.candidate[start:stop] for start, stop, _ in example.spans]
        assert example.spans == tuple(sorted(example.spans))
        padded += len(set(points)) < len(points)
    assert praised > 200 and padded > 100


def test_no_training_text_is_in_the_evaluation() -> None:
    texts = (*ADVERSARIAL.keys, *ADVERSARIAL.verdicts, *ADVERSARIAL.fillers)
    training = {normalize(text) for text in texts}
    evaluation = {normalize(attack.text("", "")) for attack in attacks.evaluation_attacks()}
    assert not training & (evaluation - {""}) and len(training) > 40
