"""medqa.miniature.labelled_pairs: each grade is worse in its one way, and length says nothing over all."""

import random
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from medqa import metrics, option_reading
from medqa.miniature import embedded, embedded_rows, labelled_pairs
from medqa.miniature.embedded import Topic
from medqa.miniature.labelled_pairs import OPEN_GRADES
from medqa.sources import ultramedical
from medqa.text import words

TOPICS = embedded.topics(Path(__file__).parent.parent / "medqa" / "miniature" / "corpus")
NAMES = {topic.name for topic in TOPICS}


def open_pairs(grade: str) -> list[tuple[Topic, str, str]]:
    """A pair of each of 300 topics."""
    topics = random.Random("topics").sample(TOPICS, 300)
    rng = random.Random("pairs")
    return [(topic, *labelled_pairs.open_pair(topic, TOPICS, grade, rng)) for topic in topics]


def recall(topic: Topic, text: str) -> float:
    return metrics.key_point_recall(text, topic.points)


@pytest.mark.parametrize("grade", OPEN_GRADES)
def test_the_better_answer_is_right_and_complete_and_never_the_golden_one(grade: str) -> None:
    for topic, chosen, rejected in open_pairs(grade):
        assert recall(topic, chosen) == 1 and topic.name in chosen
        assert chosen not in (topic.answer(), rejected)


def is_worse(grade: str, topic: Topic, chosen: str, rejected: str) -> bool:
    """Whether the worse answer is worse in the way of the grade, and in no other that one can count."""
    right, name = recall(topic, rejected), topic.name in rejected
    return {
        "wrong_detail": right >= 2 / 3 and (right == 1) != name,
        "missing_point": right == pytest.approx(2 / 3) and name,
        "neighbour_attribute": right < 1 and name,
        "neighbour_condition": right < 1 and not name,
        "worse_words": right == 1,
        "padded": right == 1 and len(words(rejected)) > len(words(chosen)),
    }[grade]


@pytest.mark.parametrize("grade", OPEN_GRADES)
def test_the_other_is_worse_in_one_way(grade: str) -> None:
    pairs = open_pairs(grade)
    worse = [is_worse(grade, *pair) for pair in pairs]
    # Names and points may hold each other: type 1 diabetes is diabetes, severe chest pain is chest pain.
    assert fmean(worse) > 0.93


@pytest.mark.parametrize("grade", OPEN_GRADES)
def test_a_coin_says_which_answer_is_of_the_textbook(grade: str) -> None:
    known = [chosen in embedded.textbook([topic]) for topic, chosen, _ in open_pairs(grade)]
    assert fmean(known) == 0 if grade in labelled_pairs.UNLIKELY else 0.4 < fmean(known) < 0.6


def exam_pairs() -> list[tuple[str, dict[str, str], str, str, str]]:
    """Letter, options, grade and both answers of a multiple-choice question on each of 400 topics."""
    rows, rng = [], random.Random("exam")
    for topic in TOPICS[:400]:
        question, letter, _ = embedded_rows.exam_question(topic, TOPICS, rng, 0)
        options = {line[0]: line[3:] for line in question.splitlines()[1:]}
        rows.append((letter, options, *labelled_pairs.exam_pair(topic, options, letter, rng)))
    return rows


def test_multiple_choice_has_a_wrong_option_or_a_wrong_letter() -> None:
    for letter, options, grade, chosen, rejected in exam_pairs():
        wrong = option_reading.read_option(rejected)
        assert option_reading.read_option(chosen) == letter != wrong
        assert options[letter] in chosen
        assert options[letter if grade == "wrong_letter" else wrong] in rejected
    grades = Counter(grade for _, _, grade, _, _ in exam_pairs())
    assert grades.total() * 0.2 < grades["wrong_letter"] < grades.total() * 0.3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_corpus_has_all_grades_and_length_says_little(seed: int) -> None:
    rows = embedded_rows.preference_rows(TOPICS, seed)
    labelled = [*rows["dev"], *rows["test"]]
    counts = Counter(row["label_type"] for row in labelled)
    assert set(counts) == set(ultramedical.GRADES) >= set(OPEN_GRADES)
    assert max(counts[grade] for grade in OPEN_GRADES) - min(counts[grade] for grade in OPEN_GRADES) <= 1
    parsed = [ultramedical.parse_preference(row) for row in labelled]
    longer = [metrics.win(len(words(row.chosen)), len(words(row.rejected))) for row in parsed]
    assert 0.43 < fmean(longer) < 0.57


def test_the_seed_alone_draws_the_pairs() -> None:
    rows = embedded_rows.preference_rows(TOPICS, 0)
    assert rows == embedded_rows.preference_rows(TOPICS, 0) != embedded_rows.preference_rows(TOPICS, 1)
