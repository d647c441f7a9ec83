"""medqa.text: words, the form in which texts are equal, and the key points of a text that lists none."""

import pytest

from medqa import text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Chest pain, FEVER!", ["chest", "pain", "fever"]),
        ("\uff26ever \ufb01brosis", ["fever", "fibrosis"]),  # full-width letter, ligature
        ("cafe\u0301", ["caf\u00e9"]),
        ("snake_case 5mg", ["snake", "case", "5mg"]),
        (
            "Stra\u00dfe, \u0130stanbul \u0131\u015f\u0131k",
            ["stra\u00dfe", "istanbul", "\u0131\u015f\u0131k"],
        ),
        # Scripts without spaces: a character with its marks; Latin words and numbers stay whole.
        ("高血压，维生素B12　５０mg", [*"高血压维生素", "b12", "50mg"]),
        ("ﾖｳ素を100mg投与", [*"ヨウ素を", "100mg", *"投与"]),
        ("ไข้ 38.5", ["ไ", "ข้", "38", "5"]),
        ("น้ำ ๕๐", ["น้ํ", "า", "๕๐"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        # Scripts with spaces: a mark belongs to its letter.
        ("हिन्दी में लक्षण", ["हिन्दी", "में", "लक्षण"]),
        ("مُسْتَشْفًى כָּאֵב", ["مُسْتَشْفًى", "כָּאֵב"]),
        ("고혈압의 증상", ["고혈압의", "증상"]),
        # What is not seen parts no word, but the space of no width does.
        ("hyper\u00adtension \u202bmi\u200ckhaham\u202c", ["hypertension", "mikhaham"]),
        ("ไข้\u200bไอ zero\u200bwidth", ["ไ", "ข้", "ไ", "อ", "zero", "width"]),
        ("\u2764\ufe0f 5\ufe0f\u20e3 \U0001f468\u200d\U0001f469", ["5"]),
        (" \n-- ", []),
        ("", []),
    ],
)
def test_words(raw: str, words: list[str]) -> None:
    assert text.words(raw) == words
    assert text.normalize(raw) == " ".join(words)


@pytest.mark.parametrize(
    ("reference", "points"),
    [
        ("Rest. Drink water! Why?", ["Rest.", "Drink water!", "Why?"]),
        ("One\nTwo\n\nThree", ["One", "Two", "Three"]),
        ("A dose of 2.5 mg. ...", ["A dose of 2.5 mg."]),  # a part without a word is no point
        ("no full stop", ["no full stop"]),
        ("多喝水。为什么？他说：“疼。”然后走了！", ["多喝水。", "为什么？", "他说：“疼。”", "然后走了！"]),
        ("剂量为2.5 mg.每日２．５片", ["剂量为2.5 mg.每日２．５片"]),
        ("安静にする．水を飲む。 ２錠飲む。", ["安静にする．", "水を飲む。", "２錠飲む。"]),
        ("ปวดหัวรุนแรง มีไข้สูง ต่าง ๆ", ["ปวดหัวรุนแรง", "มีไข้สูง", "ต่าง ๆ"]),
        ("दर्द होता है। बुखार आता है।", ["दर्द होता है।", "बुखार आता है।"]),
        ("ما هي الأعراض؟ الحمى۔", ["ما هي الأعراض؟", "الحمى۔"]),
        ("...", ["..."]),  # never none: a recall over no points has no value
    ],
)
def test_key_points(reference: str, points: list[str]) -> None:
    assert text.key_points(reference) == points


def test_a_text_without_words_has_no_sentence() -> None:
    assert (text.sentences("..."), text.sentences(""), text.key_points("...")) == ([], [], ["..."])
    assert text.sentences("A rash. Fever!\n-\n") == ["A rash.", "Fever!"]


def test_a_pile_of_marks_takes_no_time() -> None:
    assert text.words("a" + "\u0300\u0316" * 50_000 + " b")[1:] == ["b"]  # NFKC alone takes over ten seconds
