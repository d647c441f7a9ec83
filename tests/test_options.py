"""medqa.sources.options: the options of a prompt by letter, and one key for two wordings of one question."""

import re
import time

import pytest
from fake_rows import EXAM, OPTIONS

from medqa.sources.options import list_options, prompt_key


def exam(stem: str, letters: str, options: tuple[str, ...], mark: str = ".") -> str:
    return "\n".join(
        [stem, *(f"{letter}{mark} {option}" for letter, option in zip(letters, options, strict=True))]
    )


@pytest.mark.parametrize(
    "variant",
    [
        EXAM.upper(),
        EXAM.replace(" ", "  ").replace("\n", "\n\n  "),
        exam("Which treats angina", "ABCD", OPTIONS[::-1]),
        exam("Which treats angina?", "ABCD", OPTIONS, ")"),
        exam("Which treats angina?", "ABCD", OPTIONS).replace("A.", "(A)"),
        exam("Which treats angina?", "abcd", OPTIONS, ")"),
        "Which treats angina? A. rest B. statins C. surgery D. aspirin",
        "Which treats angina?\n(a) rest (b) aspirin (c) surgery (d) statins",
    ],
    ids=[
        "case",
        "space",
        "order of options",
        "brackets",
        "one bracket",
        "lower case",
        "one line",
        "brackets, one line",
    ],
)
def test_prompts_that_are_the_same_question_share_a_key(variant: str) -> None:
    assert prompt_key(variant) == prompt_key(EXAM)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is angina?", "what is  ANGINA"),
        ("What is type-2 diabetes?", "What is type 2 diabetes"),
    ],
)
def test_open_questions_fold_case_space_and_punctuation(first: str, second: str) -> None:
    assert prompt_key(first) == prompt_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is angina?", "What causes angina?"),
        ("What is type 1 diabetes?", "What is type 2 diabetes?"),
        ("Is rest or aspirin better?", "Is aspirin or rest better?"),  # no options: order is meaning
        (EXAM, EXAM.replace("rest", "oxygen")),
        (EXAM, EXAM.replace("angina", "asthma")),
        (EXAM, EXAM.split("\n")[0]),
        (EXAM + "\nA. fever", EXAM + "\nA. rash"),  # a letter that comes twice
        ("Which is it? A. x B. y C. z D. w", "Which is it? A. x B. y C. z D. v"),
        ("Which is it? A. x B. y C. z D. w", "What is it? A. x B. y C. z D. w"),
        ("A. gout B. rash C. fever", "A. gout B. rash C. cough"),  # nothing but options
        ("A: What is gout?\nB: A rash?\nC: Why?", "A: What is gout?\nB: A rash?\nC: When?"),
        ("Does vitamin A. help? Or B. or C.", "Does vitamin A. help? Or C. or B."),  # no options
        ("\u2191\u2191?", "\u2193\u2193?"),  # no words
    ],
)
def test_different_questions_stay_distinct(first: str, second: str) -> None:
    assert prompt_key(first) != prompt_key(second)


@pytest.mark.parametrize(
    "prompt",
    [
        "A. x B. y C. z D. w",
        "A. x\nB. y\nC. z",
        "Name the disease.\nA. gout B. acne C. asthma D. anaemia",
        "(A) (B) (C)",
        "a) b) c) d)",
        "...",
        "\u75db\u98ce\u7684\u75c7\u72b6\u662f\u4ec0\u4e48\uff1f",
    ],
)
def test_no_prompt_is_emptied(prompt: str) -> None:
    assert prompt_key(prompt).strip(" |")


@pytest.mark.parametrize(
    "prompt",
    [
        EXAM,
        EXAM.replace("\n", " "),
        "Hepatitis A. is meant. " + EXAM.replace("\n", " ").lower(),
        re.sub(r"(\w)\. ", r"- **\1.** ", EXAM),
        re.sub(r"(\w)\. ", r"* \1) ", EXAM),
        re.sub(r"(\w)\. ", r"\1 - ", EXAM),
        re.sub(r"(\w)\. ", r"[\1] ", EXAM),
        re.sub(r"(\w)\. ", r"Option \1: ", EXAM),
        re.sub(r"(\w)\. ", r"\1.\n", EXAM),
        re.sub(r"(\w)\. ", "\\1\u3001", EXAM),
        re.sub(r"\n(\w)\. ", r" (\1)", EXAM),
        re.sub(r"\n(\w)\. ", r", \1. ", EXAM),
        EXAM.translate({ord(letter): ord(letter) + 0xFEE0 for letter in "ABCD."}),
    ],
)
def test_options_by_letter(prompt: str) -> None:
    assert list_options(prompt) == dict(zip("ABCD", OPTIONS, strict=True))


def test_of_a_letter_that_comes_twice_the_first_option_counts() -> None:
    assert list_options(EXAM + "\nA. oxygen") == dict(zip("ABCD", OPTIONS, strict=True))


def test_two_options_are_enough_if_they_are_a_and_b() -> None:
    assert list_options("Is it?\nA. yes\nB. no") == {"A": "yes", "B": "no"}
    assert list_options("Is it?\nB. yes\nC. no") == {}


@pytest.mark.parametrize("run", ["\n", " \n\t", " ", "*", "- ", "A. ", "A.\n"])
def test_options_are_listed_in_linear_time(run: str) -> None:
    def seconds(times: int) -> float:
        prompt = f"Why?\n{run * times}x"
        started = time.process_time()
        prompt_key(prompt)
        list_options(prompt)
        return time.process_time() - started

    seconds(100)
    assert seconds(16_000) < 16 * max(
        seconds(4_000), 0.01
    )  # 16 times as long if it were quadratic, and over a second
