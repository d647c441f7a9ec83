"""medqa.sources.ultramedical: what a row holds, and the reason of every damaged row."""

import json
from typing import Any

import pytest
from fake_rows import EXAM, preference_row, sft_row

from medqa.sources.ultramedical import parse_preference, parse_sft


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
    parsed = parse_sft(row)
    assert (parsed.id, parsed.kind, parsed.remark) == ("1", kind, "")
    assert (parsed.prompt, parsed.chosen) == tuple(turn["value"] for turn in row["conversations"])


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
        (preference_row("1", "Is it?\nA. yes\nB. no"), "open", "", "", ()),
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
    parsed = parse_preference(row)
    assert (parsed.kind, parsed.gold, parsed.golden_text, parsed.key_points) == (
        kind,
        gold,
        golden_text,
        points,
    )
    assert (parsed.chosen, parsed.rejected, parsed.label_type) == ("Rest.", "Run.", "easy")


@pytest.mark.parametrize(
    ("metadata", "attribute", "labelled_by"),
    [
        ({}, "", ""),
        ({"attribute": None, "labelled_by": None}, "", ""),
        ({"attribute": " side  effects ", "labelled_by": "people"}, "side effects", "people"),
        ({"attribute": 3, "labelled_by": " code "}, "3", "code"),
        ({"labelled_by": "unknown"}, "", "unknown"),
        ({"labelled_by": "model:  GPT-4: turbo"}, "", "model: GPT-4: turbo"),
    ],
)
def test_what_metadata_say_of_a_pair(metadata: dict[str, Any], attribute: str, labelled_by: str) -> None:
    row = preference_row("1", "Why?", **metadata)
    for each in (row, row | {"metadata": json.dumps(row["metadata"])}, row | {"metadata": None} | metadata):
        parsed = parse_preference(each)
        assert (parsed.attribute, parsed.labelled_by) == (attribute, labelled_by)


def turns(*texts: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in texts]}


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
        parse_sft(row)


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
    parsed = parse_sft(SFT | row)
    assert (parsed.prompt, parsed.chosen, parsed.remark) == ("Why?", "So.", remark)


@pytest.mark.parametrize(
    ("golden", "remark"),
    [
        ("A", ""),
        (None, "options without a golden answer"),
        ("It thins the blood.", "golden answer is none of the options"),
    ],
)
def test_an_exam_without_a_letter_is_remarked(golden: str | None, remark: str) -> None:
    assert parse_preference(preference_row("1", EXAM, golden_answer=golden)).remark == remark


PAIR = preference_row("1", "Why?")
LABELLERS = "labelled_by is not code, people, unknown or model: NAME"


def pair(chosen: tuple[str, ...], rejected: tuple[str, ...]) -> dict[str, Any]:
    """A pair of conversations of which these are the turns after the first question."""

    def side(texts: tuple[str, ...]) -> list[dict[str, str]]:
        turns = zip(("assistant", "user", "assistant"), texts, strict=False)
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
        ({key: value for key, value in PAIR.items() if key != "prompt_id"}, "missing key prompt_id"),
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
        (preference_row("1", "Why?", attribute=["a"]), "attribute is not text"),
        (preference_row("1", "Why?", labelled_by="me"), LABELLERS),
        (preference_row("1", "Why?", labelled_by="model:"), LABELLERS),
        (preference_row("1", "Why?", labelled_by="models: x"), LABELLERS),
        (preference_row("1", "Why?", labelled_by=["people"]), LABELLERS),
        (preference_row("1", "Why?", labelled_by=True), LABELLERS),
        (preference_row("1", "Why?", labelled_by=7), LABELLERS),
        (preference_row("1", "Why?", key_points="so; thus"), "key_points are not a list of texts"),
        (preference_row("1", "Why?", key_points=[{"point": "so"}]), "key_points are not a list of texts"),
        (preference_row("1", EXAM, golden_answer="E"), "the golden answer names no one option of the prompt"),
    ],
)
def test_a_damaged_preference_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        parse_preference(row)
