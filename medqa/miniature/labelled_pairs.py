"""Labelled pairs of the embedded corpus: a good answer, and one that is worse in one known way, its grade.

A coin says which of the two is a sentence of the textbook, which a base knows by heart; the other is new to
it. So neither length nor the likelihood under the base says much about which answer is better.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from medqa.miniature.embedded import Topic, fill

EXAM_FORM = "For {name} the answer is {points}."  # in no training text
# Their worse answer is unlikely to the base in any words: the better one is never of the textbook.
UNLIKELY = ("worse_words", "padded")
LETTER_SHARE = 0.25  # of the multiple-choice pairs: the right text under a wrong letter

Wording = Callable[[Topic, Sequence[str]], str]  # from a topic and points to a text


def open_pair(topic: Topic, topics: Sequence[Topic], grade: str, rng: random.Random) -> tuple[str, str]:
    """An answer that states all points of the topic, and one that is worse as the grade says."""

    def word_anew(topic: Topic, points: Sequence[str]) -> str:
        # The golden answer in another order: a judge that only recognises its text gains nothing.
        return topic.answer([*points[1:], *points[:1]])

    wordings = [word_anew, _textbook_wording(rng)]
    good, bad = wordings if grade in UNLIKELY else rng.sample(wordings, 2)
    return good(topic, topic.points), _WORSE[grade](topic, topics, bad, rng)


def exam_pair(
    topic: Topic, options: Mapping[str, str], letter: str, rng: random.Random
) -> tuple[str, str, str]:
    """The grade, an answer that is right and one that is wrong; `options` maps letters to texts."""

    def word_anew(topic: Topic, points: Sequence[str]) -> str:
        return fill(EXAM_FORM.replace("{name}", topic.name), points)

    grade = "wrong_letter" if rng.random() < LETTER_SHARE else "wrong_option"
    wrong_letter = rng.choice([each for each in options if each != letter])
    wrong_text = options[letter if grade == "wrong_letter" else wrong_letter]
    good, bad = rng.sample([word_anew, _textbook_wording(rng)], 2)
    chosen = f"{good(topic, [options[letter]])} Option {letter} is right."
    rejected = f"{bad(topic, [wrong_text])} Option {wrong_letter} is right."
    return grade, chosen, rejected


def _textbook_wording(rng: random.Random) -> Wording:
    style = rng.randrange(100)  # `textbook` counts on from its last style
    return lambda topic, points: topic.textbook(style, points)


def wrong_points(topic: Topic, topics: Sequence[Topic], rng: random.Random, count: int) -> list[str]:
    """Key points of the same attribute that are wrong for this condition."""
    return rng.sample(_all_wrong_points(topic, topics), count)


def _all_wrong_points(topic: Topic, topics: Sequence[Topic]) -> list[str]:
    pool = {point for each in topics if each.attribute == topic.attribute for point in each.points}
    return sorted(pool - set(topic.points))


def _wrong_detail(topic: Topic, topics: Sequence[Topic], wording: Wording, rng: random.Random) -> str:
    """A word of a point is exchanged, or the name of the condition."""
    if rng.random() < 0.5:
        return wording(_neighbour(topic, topics, rng), topic.points)
    points, index = list(topic.points), rng.randrange(len(topic.points))
    detail = points[index].split()
    wrong = {word for point in _all_wrong_points(topic, topics) for word in point.split()} - set(detail)
    detail[rng.randrange(len(detail))] = rng.choice(sorted(wrong))
    points[index] = " ".join(detail)
    return wording(topic, points)


def _missing_point(topic: Topic, topics: Sequence[Topic], wording: Wording, rng: random.Random) -> str:
    missing = rng.choice(topic.points)
    return wording(topic, [point for point in topic.points if point != missing])


def _neighbour_attribute(topic: Topic, topics: Sequence[Topic], wording: Wording, rng: random.Random) -> str:
    """A true answer about the same condition to a question that nobody asked."""
    neighbours = [each for each in topics if each.name == topic.name and each.attribute != topic.attribute]
    neighbour = rng.choice(neighbours)
    return wording(neighbour, neighbour.points)


def _neighbour_condition(topic: Topic, topics: Sequence[Topic], wording: Wording, rng: random.Random) -> str:
    """A true answer about another condition."""
    neighbour = _neighbour(topic, topics, rng)
    return wording(neighbour, neighbour.points)


def _neighbour(topic: Topic, topics: Sequence[Topic], rng: random.Random) -> Topic:
    """The same attribute of another condition with other points, if possible one that shares a point."""
    same = [each for each in topics if each.attribute == topic.attribute and each.name != topic.name]
    different = [each for each in same if not set(topic.points) <= set(each.points)]
    near = [each for each in different if set(topic.points) & set(each.points)]
    return rng.choice(near or different)


def _worse_words(topic: Topic, topics: Sequence[Topic], wording: Wording, rng: random.Random) -> str:
    """The same points, with hesitation, with repetition, or in broken sentences."""
    first, second, third = topic.points
    sentence = wording(topic, topic.points)
    words = sentence.split()
    stutter = " ".join([*words[:2], words[1], *words[2:]])
    repeated = (wording(topic, (first, first, second, third)), f"{sentence} {sentence}")
    broken = (f"{second}, {first}, {third}.", f"{third} and {first}. {topic.name}, {second}.")
    return rng.choice((stutter, *repeated, *broken))


def _padded(topic: Topic, topics: Sequence[Topic], wording: Wording, rng: random.Random) -> str:
    """The same points, with an empty sentence or with facts that nobody asked for."""
    extra = _neighbour_attribute(topic, topics, wording, rng)
    empty = f"The question is {topic.question(rng.randrange(100))}"
    answer = wording(topic, topic.points)
    return rng.choice((f"{answer} {empty}", f"{empty} {answer}", f"{answer} {extra}", f"{extra} {answer}"))


_WORSE: dict[str, Callable[[Topic, Sequence[Topic], Wording, random.Random], str]] = {
    "wrong_detail": _wrong_detail,
    "missing_point": _missing_point,
    "neighbour_attribute": _neighbour_attribute,
    "neighbour_condition": _neighbour_condition,
    "worse_words": _worse_words,
    "padded": _padded,
}
OPEN_GRADES = tuple(_WORSE)
