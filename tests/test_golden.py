"""medqa.sources.golden: a letter in every form in which people write it, and a reason where it is unclear."""

import pytest

from medqa.sources.golden import golden_letter

OPTIONS = {"A": "aspirin", "B": "E. coli", "C": "surgery", "D": "rest (in bed)", "E": "42"}
NO_OPTION, ELSE = (
    "the golden answer names no one option",
    "the golden answer names an option and says something else",
)
NUMBER, NO_OPTIONS = "the golden answer is a number", "a golden letter, but no options in the prompt"


@pytest.mark.parametrize(
    "golden",
    [
        "C",
        " c ",
        "(C)",
        "C.",
        "[c]",
        "**C**",
        "\uff23",
        "C) surgery",
        "C: Surgery.",
        "(C) surgery",
        "C surgery",
        "C - surgery",
        "C.\nsurgery",
        "C. surgery, because it cures",
        "surgery",
        "Surgery.",
        "Option C",
        "choice (c)",
        "OPTION C: surgery",
        "The answer is C",
        "The correct answer is (C).",
        "Correct answer: C",
        "The answer is surgery.",
        "The answer is C because it cures.",
        "C is correct",
        "C\n\nExplanation: it cures.",
        "**Answer: C**\nIt cures.",
        r"$\boxed{\text{C}}$",
        "\u7b54\u6848\u662fC",
        "\u6b63\u786e\u7b54\u6848\uff1aC",
    ],
)
def test_forms_of_a_letter(golden: str) -> None:
    assert golden_letter(golden, OPTIONS) == "C"


@pytest.mark.parametrize(
    ("golden", "letter"),
    [
        ("e coli", "B"),
        ("E. coli", "B"),  # its text, not its first letter
        ("42", "E"),
        ("Rest (in bed)", "D"),
        ("E", "E"),
        ("heart failure", ""),
        ("A 42-year-old needs rest.", ""),
        ("None of the above", ""),
        ("B12", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_texts_of_options_and_other_texts(golden: str, letter: str) -> None:
    assert golden_letter(golden, OPTIONS) == letter


@pytest.mark.parametrize("letter", "ABCDEFGHIJ")
def test_ten_letters(letter: str) -> None:
    assert golden_letter(f"{letter}.", {other: f"option {other}{other}" for other in "ABCDEFGHIJ"}) == letter


@pytest.mark.parametrize(
    ("golden", "reason"),
    [
        ("F", NO_OPTION),
        ("K", NO_OPTION),
        ("A, C", NO_OPTION),
        ("Both A and C", NO_OPTION),
        ("C or D", NO_OPTION),
        ("AC", NO_OPTION),
        ("2", NUMBER),
        ("Option 3", NUMBER),
        ("C) aspirin", ELSE),
        ("C. heart failure", ELSE),
        ("The answer is C. A pill would not help.", ELSE),
    ],
)
def test_what_names_no_option_is_no_text_either(golden: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        golden_letter(golden, OPTIONS)


def test_two_options_of_one_text_are_no_answer() -> None:
    assert golden_letter("rest", {"A": "rest", "B": "Rest.", "C": "surgery"}) == ""


@pytest.mark.parametrize("golden", ["C", "(c)", "C) surgery", "The answer is C.", "A or B"])
def test_a_letter_without_options_is_refused(golden: str) -> None:
    with pytest.raises(ValueError, match=NO_OPTIONS):
        golden_letter(golden, {})


@pytest.mark.parametrize(
    "golden", ["E. coli", "C. difficile infection", "2", "K", "B-12", "The answer is rest."]
)
def test_without_options_a_text_is_a_text(golden: str) -> None:
    assert golden_letter(golden, {}) == ""
