"""Which option a golden answer names, in the forms in which people write it."""

import re
import unicodedata

from medqa.text import LETTERS, normalize, words

_SAYING = re.compile(
    r"[\W_]*(?:(?:the|correct|right|best|final|most|likely|golden?|answer|ans|option|choice|letter|key|is|are|boxed|text|"
    r"正确|答案|选项|选|應|应|该|該|为|為|是)(?=[\W_A-J]|$|[^\x00-\x7f])[\W_]*)*",
    re.IGNORECASE,
)
_NAMES = re.compile(rf"([{LETTERS}])(?![A-Za-z0-9])(.*)", re.IGNORECASE | re.DOTALL)
_MARK, _OPTION_MARK = re.compile(r"\s*[.):\],;、。}–—-]"), re.compile(r"\s*[):\]]")
_GIVES_REASON = re.compile(r"[^\w\n]*(?:[.,;:、。–—\n-]|because\b|since\b|as\b)", re.IGNORECASE)
_OTHER = re.compile(rf"(?<![A-Za-z0-9])[{LETTERS}](?![A-Za-z0-9])")
_LONGEST = 80  # characters of a golden answer that may be nothing but letters
_PRAISE = frozenset(words("is the correct right best answer option choice"))
_JOINS = frozenset(words("and or both either options answers answer all"))


def golden_letter(golden: str, options: dict[str, str]) -> str:
    """The letter of the option that a golden answer names by its letter or its text; '' if it is a text of
    its own.

    `options` are those of the prompt, by letter. Raises ValueError with the reason if it names an option that
    is not there, several, a number, or says something else than its option: no open question may have "C."
    for a reference.
    """
    text = unicodedata.normalize("NFKC", golden)
    start = _SAYING.match(text).end()
    body, stated = text[start:], any(map(str.isalnum, text[:start]))
    named = _NAMES.match(body)
    stated |= bool(named and re.match(r"[^\w\n]*\n", named[2]))  # alone on the first line
    letter = named[1].upper() if named else ""
    if letter in options and _PRAISE.issuperset(words(named[2])):
        return letter
    if not options and len(body) > _LONGEST:
        return ""
    same = [
        key
        for key, option in options.items()
        if words(option) and normalize(option) in (normalize(text), normalize(body))
    ]
    if len(same) == 1:
        return same[0]
    if letter in options and _agrees(normalize(options[letter]), named[2], stated):
        return letter
    _refuse_label(body, options)
    if letter in options and (stated or _MARK.match(named[2])):
        raise ValueError("the golden answer names an option and says something else")
    if letter and not options and _OPTION_MARK.match(named[2]):
        raise ValueError("a golden letter, but no options in the prompt")
    return ""


def _agrees(option: str, rest: str, stated: bool) -> bool:
    """Whether what follows a letter is its option's text, or, after "the answer is", a reason without other
    letters.
    """
    said = normalize(rest)
    if option and (f" {option} " in f" {said} " or f"{option} ".startswith(f"{said} ")):
        return True
    return stated and _GIVES_REASON.match(rest) is not None and not _OTHER.search(rest)


def _refuse_label(body: str, options: dict[str, str]) -> None:
    """Raise ValueError for a golden answer of nothing but letters or numbers of options."""
    said = [word for word in words(body) if word not in _JOINS]
    if not said:
        return
    if options and all(word.isdigit() for word in said):
        raise ValueError("the golden answer is a number, not an option of the prompt")
    run_together = len(said) == 1 and body.strip().isupper() and set(body.strip()) <= options.keys()
    if options and (
        run_together or all(word.isdigit() or (len(word) == 1 and word.isascii()) for word in said)
    ):
        raise ValueError("the golden answer names no one option of the prompt")
    if not options and all(word.upper() in tuple(LETTERS) for word in said):
        raise ValueError("a golden letter, but no options in the prompt")
