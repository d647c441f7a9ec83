"""medqa.text: words, the form in which texts are equal, and the key points of a text that names none."""

import pytest

from medqa import text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Chest pain, FEVER!", ["chest", "pain", "fever"]),
        ("\uff26ever \ufb01brosis", ["fever", "fibrosis"]),  # full-width letter, ligature
        ("cafe\u0301", ["caf\u00e9"]),
        ("snake_case 5mg", ["snake", "case", "5mg"]),
        (" \n-- ", []),
        ("", []),
    ],
)
def test_words(raw: str, words: list[str]) -> None:
    assert text.words(raw) == words
    assert text.normal(raw) == " ".join(words)


@pytest.mark.parametrize(
    ("reference", "points"),
    [
        ("Rest. Drink water! Why?", ["Rest.", "Drink water!", "Why?"]),
        ("One\nTwo\n\nThree", ["One", "Two", "Three"]),
        ("A dose of 2.5 mg. ...", ["A dose of 2.5 mg."]),  # a part without a word is no point
        ("no full stop", ["no full stop"]),
        ("...", ["..."]),  # never none: a recall over no points has no value
    ],
)
def test_key_points(reference: str, points: list[str]) -> None:
    assert text.key_points(reference) == points
