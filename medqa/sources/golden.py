"""Which option a golden answer names, in the forms in which people write it."""

import re
import unicodedata

from medqa.text import LETTERS, normalize, words

_INTRODUCTION = re.compile(
    r"[\W_]*(?:(?:the|correct|right|best|final|most|likely|golden?|answer|ans|option|choice|letter|key|is|are|boxed|text|"
    r"正确|答案|选项|选|應|应|该|該|为|為|是)(?=[\W_A-J]|$|[^\x00-\x7f])[\W_]*)*",
    re.IGNORECASE,
)
_LETTER = re.compile(rf"([{LETTERS}])(?![A-Za-z0-9])(.*)", re.IGNORECASE | re.DOTALL)
_MARK, _OPTION_MARK = re.compile(r"\s*[.):\],;、。}–—-]"), re.compile(r"\s*[):\]]")
_REASON = re.compile(r"[^\w\n]*(?:[.,;:、。–—\n-]|because\b|since\b|as\b)", re.IGNORECASE)
_ANY_LETTER = re.compile(rf"(?<![A-Za-z0-9])[{LETTERS}](?![A-Za-z0-9])")
_MAX_LABEL = 80  # characters of a golden answer that may be nothing but letters
_APPROVAL = frozenset(words("is the correct right best answer option choice"))
_CONJUNCTIONS = frozenset(words("and or both either options answers answer all"))


def golden_letter(golden: str, options: dict[str, str]) -> str:
    """The letter of the option that a golden answer names by letter or by text; '' if it is another text.

    `options` are those of the prompt, by letter. Raises ValueError with the reason if it names a missing
    option, several, a number, or contradicts its option: no open question may have "C." for a reference.
    """
    text = unicodedata.normalize("NFKC", golden)
    body = _INTRODUCTION.sub("", text, count=1)
    is_introduced = any(map(str.isalnum, text[: len(text) - len(body)]))
    match = _LETTER.match(body)
    letter, rest = (match[1].upper(), match[2]) if match else ("", "")
    if letter in options and _APPROVAL.issuperset(words(rest)):
        return letter
    if not options and len(body) > _MAX_LABEL:
        return ""
    forms = (normalize(text), normalize(body))
    same_text = [key for key, option in options.items() if words(option) and normalize(option) in forms]
    if len(same_text) == 1:
        return same_text[0]
    # Alone on the first line, a letter is as clear as after "the answer is".
    is_clear = is_introduced or bool(match and re.match(r"[^\w\n]*\n", rest))
    if letter in options and _agrees(normalize(options[letter]), rest, is_clear):
        return letter
    _refuse_label(body, options)
    if letter in options and (is_clear or _MARK.match(rest)):
        raise ValueError("the golden answer names an option and says something else")
    if letter and not options and _OPTION_MARK.match(rest):
        raise ValueError("a golden letter, but no options in the prompt")
    return ""


def _agrees(option: str, rest: str, is_clear: bool) -> bool:
    """Whether the rest behind a letter is its option's text or, behind a clear letter, a reason."""
    text = normalize(rest)
    if option and (f" {option} " in f" {text} " or f"{option} ".startswith(f"{text} ")):
        return True
    return is_clear and _REASON.match(rest) is not None and not _ANY_LETTER.search(rest)


def _refuse_label(body: str, options: dict[str, str]) -> None:
    """Raise ValueError for a golden answer of nothing but letters or numbers of options."""
    labels = [word for word in words(body) if word not in _CONJUNCTIONS]
    if not labels:
        return
    if not options:
        if all(word.upper() in tuple(LETTERS) for word in labels):
            raise ValueError("a golden letter, but no options in the prompt")
        return
    if all(word.isdigit() for word in labels):
        raise ValueError("the golden answer is a number, not an option of the prompt")
    run_together = len(labels) == 1 and body.strip().isupper() and set(body.strip()) <= options.keys()
    if run_together or all(word.isdigit() or (len(word) == 1 and word.isascii()) for word in labels):
        raise ValueError("the golden answer names no one option of the prompt")
