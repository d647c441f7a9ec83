"""What can be measured of an answer without a judge, and intervals for means. No torch, no model."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medqa.text import normal, words

_STOP = frozenset(
    "a an and are as at be by can for from has have in include includes is it its may of on or that the their this to "
    "was were which with".split()
)
# How an answer names its option, strongest first; a bare letter counts only where it is all that is said.
_SAYS = [
    re.compile(r"\b(?:answer|option|choice)\b\s*(?:is|:|=)?\s*:?\s*\(?\\?(?:boxed\{|text\{)*([A-D])\b(?!')"),
    re.compile(r"\\boxed\{(?:\\text\{)?\s*\(?([A-D])\b"),
    re.compile(r"^\W*([A-D])(?:[.):]|\W*$)", re.MULTILINE),
]
_DENIES = re.compile(r"\b(?:not|isn't|never|rather than|except)\b[^.]{0,20}$", re.IGNORECASE)


def covers(answer: str, point: str) -> bool:
    """Whether an answer holds a key point: a short one word for word, a sentence by at least 60% of its content words."""
    wanted = words(point)
    if len(wanted) <= 4:
        return f" {' '.join(wanted)} " in f" {normal(answer)} "
    content = set(wanted) - _STOP
    return len(content & set(words(answer))) >= 0.6 * len(content)


def key_point_recall(answer: str, points: Sequence[str]) -> float:
    """Share of the key points (at least one) that the answer holds."""
    return sum(covers(answer, point) for point in points) / len(points)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, as in SQuAD (Rajpurkar et al. 2016), stop words included."""
    first, second = Counter(words(answer)), Counter(words(reference))
    shared = sum((first & second).values())
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


def repetition(answer: str) -> float:
    """Share of the word trigrams that occurred before in the answer; 0 for answers of fewer than four words."""
    parts = words(answer)
    grams = list(zip(parts, parts[1:], parts[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def choice(answer: str) -> str:
    """The letter A to D that an answer settles on, or '' if it names none, several, or only denies one."""
    text = unicodedata.normalize("NFKC", answer)
    for pattern in _SAYS:
        found = {match[1] for match in pattern.finditer(text) if not _DENIES.search(text[: match.start(1)])}
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def mean_interval(values: Sequence[float], seed: int, samples: int) -> tuple[float, float, float]:
    """The mean and its 95% percentile bootstrap interval (Efron 1979). Needs at least one value."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [data[rng.integers(0, len(data), len(data))].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(data.mean()), float(low), float(high)
