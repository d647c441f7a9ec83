"""How texts are taken apart: words, the form in which two are equal, and the key points of a text that names none."""

import re
import unicodedata

LETTERS = "ABCDEFGHIJ"  # of the options of a multiple-choice question
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case words of a text, compatibility forms folded (NFKC), punctuation dropped."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def normal(text: str) -> str:
    """A text's words with single spaces: the form in which two texts count as equal."""
    return " ".join(words(text))


def key_points(reference: str) -> list[str]:
    """The key points of a reference that names none: its sentences."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", reference) if words(part)] or [reference]
