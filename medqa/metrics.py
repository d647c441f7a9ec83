"""What can be measured of an answer without a judge, and intervals for means. No torch, no model."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from medqa.text import normal, words

_STOP = frozenset(
    words(
        "a an and are as at be by can for from has have in include includes is it its may of on or that the their this "
        "to was were which with"
    )
)
# A letter is an option's unless a word goes on (B-cell, A1c), or it reads as the article (A patient).
_GOES_ON = r"because|since|as|is|was|would|or|and|but|not|rather|which|for|due|with"
_LETTER = rf"(?<![\w'])(?:[B-D]|A(?! +(?!(?:{_GOES_ON})\b)(?-i:[a-z])))(?![\w']|-\w)"
_LETTERS = rf"({_LETTER}(?:(?:[\s,/&()]|\b(?:or|and|option)\b)*{_LETTER})*+)"
_FILLER = (
    r"(?:[\s:=(\[-]|\b(?:is|are|was|be|would|should|could|might|may|must|the|this|that|to|question|here|most|likely|"
    r"probably|clearly|correct|right|best|final|option|choice|letter|answer)\b)*+"
)
_WRONG = (
    r"(?!\)?\s+(?:isn't|(?:is|was|would be|can be|seems)\s+(?:not|wrong|incorrect|false|unlikely|ruled|excluded))\b)"
)
# How an answer names its option, strongest first; a bare letter counts only where it is all that a line says.
_SAYS = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"(?:\banswer\b|(?:not|n't) (?:option )?[A-D]\)?[,;]? (?:but|it is|it's)\b){_FILLER}{_LETTERS}{_WRONG}",
        rf"(?:^|[.,;:!?(]|\b(?:that|so|thus|hence|therefore|and|but|think|option)\b)\s*\(?{_LETTERS}\)?"
        r" (?:is|are|would be|seems) (?:(?:the|most|clearly) )*(?:correct|right|best|answer|true)\b",
        rf"\b(?:option|choice|choose|select|pick|go with)\b{_FILLER}{_LETTERS}{_WRONG}",
        rf"(?:^\W*|\b(?:it is|it's|think) ){_LETTERS}(?:[.):,;\]]|\s+[-–—]\s|\W*$)",
    )
]
_DENIES = re.compile(r"(?:\b(?:not|never|than|except|neither|nor)|n't)\s+(?:the )?$", re.IGNORECASE)
# LaTeX and Markdown around a letter; \boxed{C} says that C is the answer.
_BOXED, _MARKUP = re.compile(r"\\boxed\b"), re.compile(r"\\[A-Za-z]+|[*_$`{}\\\"]")


def covers(answer: str, point: str) -> bool:
    """Whether an answer holds a key point: a short one word for word, a sentence by 60% of its content words."""
    wanted = words(point)
    if len(wanted) <= 4:
        return f" {' '.join(wanted)} " in f" {normal(answer)} "
    content = set(wanted) - _STOP or set(wanted)
    return len(content & set(words(answer))) >= 0.6 * len(content)


def key_point_recall(answer: str, points: Sequence[str]) -> float:
    """Share of the key points (at least one) that the answer holds."""
    return sum(covers(answer, point) for point in points) / len(points)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, as in SQuAD (Rajpurkar et al. 2016), stop words included."""
    first, second = Counter(words(answer)), Counter(words(reference))
    shared = sum((first & second).values())
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin 2004) with beta 1: F1 of the words in the longest common subsequence, stop words included."""
    first, second = words(answer), words(reference)
    shared = longest_common_subsequence(first, second)
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, with the bits of an integer for a row of the table (Crochemore et al. 2001, as in Hyyrö 2004).

    A bit is 0 where the length over `first` up to there is one more than before it.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    whole = row = (1 << len(first)) - 1
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & whole
    return len(first) - row.bit_count()


def repetition(answer: str) -> float:
    """Share of the word trigrams that occurred before in the answer; 0 for answers of fewer than four words."""
    parts = words(answer)
    grams = list(zip(parts, parts[1:], parts[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def choice(answer: str) -> str:
    """The letter A to D that an answer settles on, or '' if it names none, several, or only denies one."""
    text = _MARKUP.sub("", _BOXED.sub(" answer ", unicodedata.normalize("NFKC", answer))).replace("’", "'")
    for pattern in _SAYS:
        named = [match[1] for match in pattern.finditer(text) if not _DENIES.search(text[: match.start()])]
        found = {letter.upper() for some in named for letter in re.findall(r"\b[A-Da-d]\b", some)}
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def win(chosen: float, rejected: float) -> float:
    """1 if the better one has more, 0 if it has less; a tie is half, as chance is."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def mean_interval(values: Sequence[float], seed: int, samples: int) -> tuple[float, float, float]:
    """The mean and its 95% percentile bootstrap interval (Efron 1979). Needs at least one value."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    # A block of samples at a time: all draws of a large evaluation would not fit into memory.
    for start in range(0, samples, block := max(1, 2**22 // len(data))):
        drawn = rng.integers(0, len(data), (min(block, samples - start), len(data)))
        means.append(data[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(data.mean()), float(low), float(high)


def share_interval(values: Sequence[float], seed: int, samples: int) -> tuple[float, float, float]:
    """As `mean_interval`, for values from 0 to 1. Where all are 0, or all 1, the other end is the exact bound.

    A bootstrap would claim to be certain there; the bound is that of Clopper and Pearson (1934), 1 - 0.025^(1/n).
    """
    mean, low, high = mean_interval(values, seed, samples)
    bound = 1 - 0.025 ** (1 / len(values))
    return mean, 1 - bound if mean == 1 else low, bound if mean == 0 else high


def named(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    """An interval as the metrics `name`, `name_low` and `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def named_interval(name: str, values: Sequence[float], seed: int, samples: int) -> dict[str, float]:
    """`mean_interval` as metrics; none for no value."""
    return named(name, mean_interval(values, seed, samples)) if len(values) else {}
