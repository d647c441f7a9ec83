"""How texts are taken apart: words, the form in which two texts are equal, and sentences as key points."""

import re
import unicodedata

LETTERS = "ABCDEFGHIJ"  # of the options of a multiple-choice question
# Scripts without spaces between words: Han, kana, bopomofo, and Unicode's line breaking class SA (Thai, Lao,
# Burmese, Khmer, Tai). Their digits are left out, so that a number is one word.
UNSPACED = (
    "\u0e01-\u0e46\u0e81-\u0ec6\u0edc-\u0edf\u1000-\u103f\u104a-\u108f\u1780-\u17dc\u1950-\u19c9\u1a20-\u1a54"
    "\u3005-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ef\uaa60-\uaadd\uf900-\ufad9"
)
# Signs over, under or beside a letter that belong to it. They end at U+FFFF: `re` is ten times slower beyond.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c) in ("Mn", "Mc"))
_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[^\W_{UNSPACED}]+(?:[{_MARKS}]+[^\W_{UNSPACED}]*)*|[^\W_][{_MARKS}]*")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Default_Ignorable_Code_Point: soft hyphens, joiners, directions, variants; but not the zero-width space.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
# More than 30 marks on a letter are no text (UAX #15, stream-safe), and NFKC takes quadratic time for them.
_MARK_PILE = re.compile(rf"([{_MARKS}]{{30}})[{_MARKS}]+")
# A full stop needs a space after it, but none in a script without spaces. Thai and Lao end clauses by spaces.
_THAI = "[\u0e01-\u0e4e\u0e81-\u0ece]"
_SENTENCE_END = re.compile(
    r"(?<=[.!?])\s+|\n+|(?<=[。｡！？।॥؟۔።။។])(?![”’」』）»])\s*|(?<=[。｡！？][”’」』）])\s*|(?<=．)(?!\d)\s*"
    rf"|(?<=[\u3005-\u9fff][.!?])(?=[\u3005-\u9fff])|(?<={_THAI})[ \u200b]+(?={_THAI})(?!ๆ|ฯ)"
)


def fold(text: str) -> str:
    """A text in compatibility form (NFKC) without invisible characters, in linear time."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _MARK_PILE.sub(r"\1", _INVISIBLE.sub("", text)))


def words(text: str) -> list[str]:
    """The words of a text in lower case and compatibility form (NFKC), without punctuation.

    In a script without spaces each character with its marks is a word (the segmentation of CMRC 2018, Cui et
    al. 2019); Latin words and numbers among them are whole words.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    # The lower case of the Turkish İ is an i and a dot over it.
    return _WORD.findall(fold(text).lower().replace("i\u0307", "i"))


def per_word(word: str) -> int:
    """How many of such words make one word: 2 Han characters or kana, 3 letters of Thai or Khmer, else 1."""
    return 1 if not _UNSPACED.match(word) else 2 if word >= "\u3000" else 3


def normalize(text: str) -> str:
    """The words of a text with single spaces: the form in which two texts count as equal."""
    return " ".join(words(text))


def key_points(reference: str) -> list[str]:
    """The key points of a reference that lists none: its sentences, in Thai and Lao its clauses."""
    return sentences(reference) or [reference]


def sentences(text: str) -> list[str]:
    """The sentences of a text, in Thai and Lao its clauses; none of a text without words."""
    return [part for part in _SENTENCE_END.split(text) if words(part)]


def distinct_sentences(text: str) -> list[str]:
    """The sentences of a text, as in `key_points`; of those that are equal, the first."""
    first: dict[str, str] = {}
    for sentence in key_points(text):
        first.setdefault(normalize(sentence), sentence)
    return list(first.values())
