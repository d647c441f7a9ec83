"""medqa.sources.ultramedical: every damaged row has its reason, and two wordings of one prompt share a key."""

import json
import re
import time
from typing import Any

import pytest
from fake_rows import EXAM, OPTIONS, preference_row, sft_row

from medqa.sources import ultramedical


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (sft_row("1", "What is angina?"), "open"),
        (sft_row("1", EXAM, "A", "Exam", answer="A"), "exam"),
        (sft_row("1", EXAM, "A", "Exam", answer=["A"]), "exam"),
        (sft_row("1", "Context: x\nWhy?", "So.", "Literature", answer="So."), "literature"),
    ],
)
def test_sft(row: dict[str, Any], kind: str) -> None:
    asked = ultramedical.sft(row)
    assert (asked.id, asked.kind, asked.remark) == ("1", kind, "")
    assert (asked.prompt, asked.chosen) == tuple(turn["value"] for turn in row["conversations"])


@pytest.mark.parametrize(
    ("row", "kind", "gold", "golden_text", "points"),
    [
        (preference_row("1", "Why?"), "open", "", "", ()),
        (
            preference_row("1", "Why?", golden_answer="So.", key_points=["so", "", 3, None]),
            "open",
            "",
            "So.",
            ("so", "3"),
        ),
        (preference_row("1", "Why?", golden_answer="...", key_points=""), "open", "", "", ()),
        (preference_row("1", "How many?", golden_answer=7.0), "open", "", "7", ()),
        (preference_row("1", "Why?", golden_answer=float("nan")), "open", "", "", ()),
        (preference_row("1", "Why?", golden_answer=["So."], key_points='["so"]'), "open", "", "So.", ("so",)),
        (preference_row("1", "Why?") | {"metadata": '{"golden_answer": "So."}'}, "open", "", "So.", ()),
        (preference_row("1", "Why?") | {"metadata": "", "golden_answer": "So."}, "open", "", "So.", ()),
        (preference_row("1", "Is it?\nA. yes\nB. no", golden_answer="b"), "exam", "B", "", ()),
        (preference_row("1", EXAM + "\nE. oxygen", golden_answer="E."), "exam", "E", "", ()),
        (
            preference_row("1", EXAM, golden_answer="It thins the blood."),
            "exam",
            "",
            "It thins the blood.",
            (),
        ),
        (preference_row("1", "Why?") | {"metadata": None}, "open", "", "", ()),
        (preference_row("1", EXAM, golden_answer=" B "), "exam", "B", "", ()),
        (preference_row("1", EXAM), "exam", "", "", ()),
        (preference_row("1", "Context: x\nWhy?"), "literature", "", "", ()),
        (preference_row("PubMedQA,1", "Why?"), "literature", "", "", ()),
    ],
)
def test_preference(
    row: dict[str, Any], kind: str, gold: str, golden_text: str, points: tuple[str, ...]
) -> None:
    asked = ultramedical.preference(row)
    assert (asked.kind, asked.gold, asked.golden_text, asked.key_points) == (kind, gold, golden_text, points)
    assert (asked.chosen, asked.rejected, asked.label_type) == ("Rest.", "Run.", "easy")


def turns(*said: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in said]}


SFT = sft_row("1", "Why?")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "not a JSON object"),
        ([SFT], "not a JSON object"),
        ({key: value for key, value in SFT.items() if key != "id"}, "missing key id"),
        (SFT | {"id": 5}, "id is not text"),
        (SFT | {"id": " "}, "empty id"),
        (SFT | {"type": "Essay"}, "unknown type"),
        (SFT | {"conversations": "hello"}, "turns are not a list of messages"),
        (SFT | {"conversations": ["hello"]}, "turns are not a list of messages"),
        (SFT | turns(("human", "Why?")), "no gpt turn"),
        (SFT | turns(), "no gpt turn"),
        (SFT | turns(("gpt", "So."), ("human", "Why?")), "wrong order of roles"),
        (SFT | turns(("human", "Why?"), ("human", "Why?"), ("gpt", "So.")), "wrong order of roles"),
        (SFT | turns(("human", "Why?"), ("gpt", ["So."])), "a turn is not text"),
        (SFT | turns(("human", "Why?"), ("gpt", " ... ")), "an empty turn"),
        (SFT | turns(("human", ""), ("gpt", "So.")), "an empty turn"),
    ],
)
def test_a_damaged_sft_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        ultramedical.sft(row)


WHY = (("human", "Why?"), ("gpt", "So."))
SURE = (("human", "Sure?"), ("gpt", "Yes."))


@pytest.mark.parametrize(
    ("row", "remark"),
    [
        (turns(("system", "Be brief."), *WHY, *SURE), "system turn left out; later turns left out"),
        (turns(("developer", "Be brief."), *WHY), "system turn left out"),
        (turns(("system", " "), *WHY, ("human", "")), ""),
        (turns(*WHY) | {"system": "Be brief."}, "system turn left out"),
        (turns(*WHY, *SURE), "later turns left out"),
        ({"conversations": json.dumps(turns(*WHY)["conversations"])}, ""),
    ],
)
def test_what_is_left_out_of_a_conversation_is_remarked(row: dict[str, Any], remark: str) -> None:
    asked = ultramedical.sft(SFT | row)
    assert (asked.prompt, asked.chosen, asked.remark) == ("Why?", "So.", remark)


@pytest.mark.parametrize(
    ("golden", "remark"),
    [
        ("A", ""),
        (None, "options without a golden answer"),
        ("It thins the blood.", "golden answer is none of the options"),
    ],
)
def test_an_exam_without_a_letter_is_remarked(golden: str | None, remark: str) -> None:
    assert ultramedical.preference(preference_row("1", EXAM, golden_answer=golden)).remark == remark


PAIR = preference_row("1", "Why?")


def pair(chosen: tuple[str, ...], rejected: tuple[str, ...]) -> dict[str, Any]:
    """A pair of conversations of which these are the turns after the first question."""

    def side(said: tuple[str, ...]) -> list[dict[str, str]]:
        turns = zip(("assistant", "user", "assistant"), said, strict=False)
        return [PAIR["chosen"][0], *({"role": role, "content": text} for role, text in turns)]

    return {"chosen": side(chosen), "rejected": side(rejected)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (PAIR | {"label_type": "odd"}, "unknown label_type"),
        (
            {key: value for key, value in PAIR.items() if key != "rejected"},
            "turns are not a list of messages",
        ),
        (PAIR | {"prompt": "Why not?"}, "the prompt differs between columns"),
        (PAIR | {"rejected": preference_row("1", "When?")["rejected"]}, "the prompt differs between columns"),
        (PAIR | {"chosen": PAIR["chosen"][:1]}, "no assistant turn"),
        (PAIR | {"chosen": PAIR["chosen"][::-1]}, "wrong order of roles"),
        (PAIR | {"rejected": preference_row("1", "Why?", rejected="--")["rejected"]}, "an empty turn"),
        (PAIR | {"prompt": None}, "prompt is not text"),
        (PAIR | pair(("So.",), ("So. ",)), "chosen and rejected are the same"),
        (PAIR | pair(("So.", "Sure?", "Yes."), ("So.", "Sure?", "Yes.")), "chosen and rejected are the same"),
        (
            PAIR | pair(("So.", "Sure?", "Yes."), ("So.", "Sure?", "No.")),
            "chosen and rejected differ only after the first answer",
        ),
        (PAIR | pair(("So.", "Sure?", "Yes."), ("No.", "Sure?", "No.")), "more than one question"),
        (PAIR | pair(("So.",), ("No.", "Sure?")), "more than one question"),
        (PAIR | {"metadata": "{'golden_answer': 'A'}"}, "metadata is not an object"),
        (PAIR | {"metadata": ["A"]}, "metadata is not an object"),
        (preference_row("1", "Why?", golden_answer=["A", "B"]), "golden_answer is not text"),
        (preference_row("1", "Why?", golden_answer=True), "golden_answer is not text"),
        (preference_row("1", "Why?", key_points="so; thus"), "key_points are not a list of texts"),
        (preference_row("1", "Why?", key_points=[{"point": "so"}]), "key_points are not a list of texts"),
        (preference_row("1", EXAM, golden_answer="E"), "the golden answer names no one option of the prompt"),
    ],
)
def test_a_damaged_preference_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        ultramedical.preference(row)


def exam(stem: str, letters: str, options: tuple[str, ...], mark: str = ".") -> str:
    return "\n".join(
        [stem, *(f"{letter}{mark} {option}" for letter, option in zip(letters, options, strict=True))]
    )


@pytest.mark.parametrize(
    "other",
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
def test_prompts_that_are_the_same_question_share_a_key(other: str) -> None:
    assert ultramedical.prompt_key(other) == ultramedical.prompt_key(EXAM)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("What is angina?", "what is  ANGINA"),
        ("What is type-2 diabetes?", "What is type 2 diabetes"),
    ],
)
def test_open_questions_fold_case_space_and_punctuation(one: str, two: str) -> None:
    assert ultramedical.prompt_key(one) == ultramedical.prompt_key(two)


@pytest.mark.parametrize(
    ("one", "two"),
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
def test_different_questions_stay_distinct(one: str, two: str) -> None:
    assert ultramedical.prompt_key(one) != ultramedical.prompt_key(two)


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
    assert ultramedical.prompt_key(prompt).strip(" |")


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
    assert ultramedical.options(prompt) == dict(zip("ABCD", OPTIONS, strict=True))


def test_of_a_letter_that_comes_twice_the_first_option_counts() -> None:
    assert ultramedical.options(EXAM + "\nA. oxygen") == dict(zip("ABCD", OPTIONS, strict=True))


def test_two_options_are_enough_for_a_golden_letter_but_make_no_exam() -> None:
    assert ultramedical.options("Is it?\nA. yes\nB. no") == {"A": "yes", "B": "no"}
    assert ultramedical.options("Is it?\nB. yes\nC. no") == {}
    assert ultramedical.preference(preference_row("1", "Is it?\nA. yes\nB. no")).kind == "open"


@pytest.mark.parametrize("run", ["\n", " \n\t", " ", "*", "- ", "A. ", "A.\n"])
def test_options_are_found_in_linear_time(run: str) -> None:
    def seconds(times: int) -> float:
        prompt = f"Why?\n{run * times}x"
        started = time.process_time()
        ultramedical.prompt_key(prompt)
        ultramedical.options(prompt)
        return time.process_time() - started

    seconds(100)
    assert seconds(16_000) < 16 * max(
        seconds(4_000), 0.01
    )  # 16 times as long if it were quadratic, and over a second
