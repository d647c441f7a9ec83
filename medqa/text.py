"""How texts are taken apart: words, the form in which two are equal, and the key points of a text that names
none.
"""

import re
import unicodedata
from itertools import takewhile

LETTERS = "ABCDEFGHIJ"  # of the options of a multiple-choice question
FOUR = LETTERS[:4]  # where it does not list them
_OPTION = re.compile(r"(?<!\w)[(\[【]?([A-Ja-j])(?:[.):、\]】]|\*\*|[^\S\n]+[-–—]\s)")
# Scripts without a space between words: Han, kana, bopomofo, and those of Unicode's line breaking class SA
# (Thai, Lao, Burmese, Khmer, Tai). Their digits are left out, so that a number stays whole.
UNSPACED = (
    "\u0e01-\u0e46\u0e81-\u0ec6\u0edc-\u0edf\u1000-\u103f\u104a-\u108f\u1780-\u17dc\u1950-\u19c9\u1a20-\u1a54"
    "\u3005-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ef\uaa60-\uaadd\uf900-\ufad9"
)
# Signs that are written over, under or beside a letter, and belong to it. Both classes end at U+FFFF: `re`
# looks larger ones up ten times slower.
_MARKS = "".join(chr(at) for at in range(0x300, 0x10000) if unicodedata.category(chr(at)) in ("Mn", "Mc"))
_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[^\W_{UNSPACED}]+(?:[{_MARKS}]+[^\W_{UNSPACED}]*)*|[^\W_][{_MARKS}]*")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# What is not seen (Default_Ignorable_Code_Point): soft hyphens, joiners, directions, variants; no space of no
# width.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
# More than 30 marks on a letter are no text (UAX #15, stream-safe), and NFKC takes the square of their number
# in time.
_PILE = re.compile(rf"([{_MARKS}]{{30}})[{_MARKS}]+")
# A full stop needs a space after it, that of a script without spaces does not. In Thai and Lao a space ends a
# clause.
_THAI = "[\u0e01-\u0e4e\u0e81-\u0ece]"
_SENTENCE_END = re.compile(
    r"(?<=[.!?])\s+|\n+|(?<=[。｡！？।॥؟۔።။។])(?![”’」』）»])\s*|(?<=[。｡！？][”’」』）])\s*|(?<=．)(?!\d)\s*"
    rf"|(?<=[\u3005-\u9fff][.!?])(?=[\u3005-\u9fff])|(?<={_THAI})[ \u200b]+(?={_THAI})(?!ๆ|ฯ)"
)


def fold(text: str) -> str:
    """A text in compatibility form (NFKC), without what is not seen, in time that grows with its length."""
    return text if text.isascii() else unicodedata.normalize("NFKC", _PILE.sub(r"\1", _UNSEEN.sub("", text)))


def words(text: str) -> list[str]:
    """Lower-case words of a text, compatibility forms folded (NFKC), punctuation dropped.

    In a script without spaces each character is one, with its marks (the segmentation of CMRC 2018, Cui et
    al. 2019); Latin words and numbers among them stay whole.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    # The lower case of the Turkish İ is an i and a dot over it.
    return _WORD.findall(fold(text).lower().replace("i\u0307", "i"))


def per_word(word: str) -> int:
    """How many such make a word: 1; of scripts without spaces 2 Han characters or kana, or 3 letters (Thai,
    Khmer).
    """
    return 1 if not _UNSPACED.match(word) else 2 if word >= "\u3000" else 3


def normalize(text: str) -> str:
    """A text's words with single spaces: the form in which two texts count as equal."""
    return " ".join(words(text))


def option_letters(question: str) -> str:
    """The letters of the options that a question lists: three to ten from A on, or A to D where it lists
    none.
    """
    marked = {letter.upper() for letter in _OPTION.findall(fold(question))}
    listed = "".join(takewhile(marked.__contains__, LETTERS))
    return listed if len(listed) >= 3 else FOUR


def key_points(reference: str) -> list[str]:
    """The key points of a reference that names none: its sentences, in Thai and Lao its clauses."""
    return [part for part in _SENTENCE_END.split(reference) if words(part)] or [reference]
