"""The options of a multiple-choice prompt, and the form in which two prompts are one question."""

import re
import unicodedata

from medqa.text import normalize, words

# Within its line, after a bullet or a bracket. \s* before it would begin anew in every line of a run of blank
# ones.
_OPTION_LINE = re.compile(
    r"^[^\S\n]*(?:[-*•>][^\S\n]*)?[(\[（【*]*(?:(?:option|choice)[^\S\n]+)?([A-JＡ-Ｊ])\**"
    r"(?:[.):．。、：）\]】]|[^\S\n]+[-–—](?=\s))\**\s*(.+)$",
    re.MULTILINE | re.IGNORECASE,
)
_INLINE_MARK = re.compile(
    r"(?<![^\s：。，；？】])[(\[（【]?([A-JＡ-Ｊ])(?:[.:]\s+|[)．。、：）\]】]\s*)(?=\S)", re.IGNORECASE
)


def list_options(prompt: str) -> dict[str, str]:
    """The options of a prompt by capital letter; of a letter that comes twice, the first.

    Two are enough if they are A and B; a dialogue may look like that, so that they alone make no exam.
    """
    options: dict[str, str] = {}
    for letter, text in _split(prompt)[1] or _split(prompt, min_options=2)[1]:
        options.setdefault(letter, text)
    return options if len(options) >= 3 or list(options) == ["A", "B"] else {}


def prompt_key(prompt: str) -> str:
    """The form in which two prompts are one question.

    Case, white space, punctuation and the order of the options are folded. After the words of the stem comes
    each option behind ` | `.
    """
    stem, options = _split(prompt)
    if options:
        return " | ".join([normalize(stem), *sorted(normalize(text) for _, text in options)])
    return normalize(prompt) or " ".join(prompt.split())


def _split(prompt: str, min_options: int = 3) -> tuple[str, list[tuple[str, str]]]:
    """The stem of a prompt, and its options with their letters: one per line, or A, B, C... within a line."""
    lines = [(_letter(match), match[2].strip()) for match in _OPTION_LINE.finditer(prompt)]
    if len(lines) >= min_options:
        return _OPTION_LINE.sub("", prompt), lines
    marks: list[re.Match[str]] = []
    for mark in _INLINE_MARK.finditer(prompt):
        if _letter(mark) == "A" and len(marks) < 2:
            marks = [mark]  # a single mark, as in "hepatitis A.", is no option
        elif ord(_letter(mark)) == ord("A") + len(marks):
            marks.append(mark)
    ends = [*(mark.start() for mark in marks[1:]), len(prompt)]
    texts = [
        prompt[mark.end() : end].strip().rstrip(",;，；") for mark, end in zip(marks, ends, strict=False)
    ]
    if len(marks) < min_options or not all(words(text) for text in texts):
        return prompt, []
    return prompt[: marks[0].start()], [
        (_letter(mark), text) for mark, text in zip(marks, texts, strict=True)
    ]


def _letter(mark: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", mark[1]).upper()
