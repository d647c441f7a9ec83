"""Measures of an answer that need no judge, and confidence intervals of means. No torch, no model."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from medqa.text import per_word, words

DRAWS = 1 << 20  # of a bootstrap, in memory at once
# The last are Chinese particles and hiragana, in which Japanese writes its particles and endings.
_STOP_WORDS = frozenset(
    words(
        "a an and are as at be by can for from has have in include includes is it its may of on or that the "
        "their this to was were which with "
        "的是有了和与與及在为為或等也都应應可会會能以对對于於并並"
    )
) | set(map(chr, range(0x3041, 0x3097)))


def covers(answer: str, point: str) -> bool:
    """Whether an answer has a key point: a short one word for word, a sentence by 60% of its content words.

    Five to eight characters of a script without spaces are a short point too: none may be missing, but its
    parts may be in another order.
    """
    point_words, answer_words = words(point), words(answer)
    if len(point_words) <= 4:
        return f" {' '.join(point_words)} " in f" {' '.join(answer_words)} "
    content = set(point_words) - _STOP_WORDS or set(point_words)
    if all(per_word(word) == 1 for word in content):
        return len(content & set(answer_words)) >= 0.6 * len(content)
    hits = zip(_hits(point_words, answer_words), point_words, strict=True)
    content_hits = [hit for hit, word in hits if word in content]
    return sum(content_hits) >= (1 if len(point_words) <= 8 else 0.6) * len(content_hits)


def _hits(point_words: list[str], answer_words: list[str]) -> list[bool]:
    """Whether each word of a point is in an answer; a character only beside one of its neighbours."""
    size = min(per_word(word) for word in point_words if per_word(word) > 1)
    runs = set(zip(*(answer_words[start:] for start in range(size)), strict=False))
    single = set(answer_words)
    hits = [per_word(word) == 1 and word in single for word in point_words]
    for start in range(len(point_words) - size + 1):
        if tuple(point_words[start : start + size]) in runs:
            hits[start : start + size] = [True] * size
    return hits


def key_point_recall(answer: str, points: Sequence[str]) -> float:
    """The share of the key points, at least one, that the answer has."""
    return sum(covers(answer, point) for point in points) / len(points)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, as in SQuAD (Rajpurkar et al. 2016), stop words included."""
    first, second = Counter(words(answer)), Counter(words(reference))
    shared = sum((first & second).values())
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin 2004) with beta 1: F1 of the longest common subsequence of words, stop words included."""
    first, second = words(answer), words(reference)
    shared = longest_common_subsequence(first, second)
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, in bit-parallel (Crochemore et al. 2001; Hyyrö 2004).

    The bits of an integer are a row of the textbook's table: a bit is 0 where the length over `first` up to
    there is one more than before it.
    """
    positions: dict[str, int] = defaultdict(int)
    for position, word in enumerate(first):
        positions[word] |= 1 << position
    all_ones = row = (1 << len(first)) - 1
    for word in second:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & all_ones
    return len(first) - row.bit_count()


def coverage(answer: np.ndarray, reference: np.ndarray) -> float:
    """How far an answer says what the reference says: the mean of the reference's sentences' best cosines.

    Both are unit vectors of sentences, (sentences, width), at least one of the reference. Of each sentence of
    the reference the cosine with the most similar one of the answer counts, as at least 0 and at most 1. An
    answer without sentences covers nothing.
    """
    return float((reference @ answer.T).clip(0, 1).max(axis=1, initial=0).mean())


def repetition(answer: str) -> float:
    """The share of word trigrams that occurred earlier in the answer; 0 below four words.

    In scripts without spaces as many characters as make three words count as a trigram: of three characters,
    Japanese endings alone repeat one in twenty.
    """
    parts = words(answer)
    sizes = [6 // per_word(word) for word in parts]  # in sixths of a word
    grams, end, size = [], 0, 0
    for start, first in enumerate(sizes):
        while size < 18 and end < len(parts):
            size += sizes[end]
            end += 1
        if size < 18:
            break
        grams.append(tuple(parts[start:end]))
        size -= first
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def win(chosen: float, rejected: float) -> float:
    """1 if chosen is more, 0 if it is less, and 0.5 for a tie, as by chance."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def mean_interval(
    values: Sequence[float], seed: int, samples: int, intervals: int = 1
) -> tuple[float, float, float]:
    """The mean and its 95% bootstrap interval, at the percentiles of `bootstrap_percentiles`.

    Needs at least one value. Where `intervals` of them are looked at, each is so much wider (Bonferroni) that
    all of them hold at once in 95 of 100 cases.
    """
    ((_, interval),) = _mean_intervals({"": values}, seed, samples, intervals)
    return interval


def _mean_intervals(
    columns: Mapping[str, Sequence[float]], seed: int, samples: int, intervals: int
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Each column's name and `mean_interval`. Columns of one length share the draws, for half the time."""
    by_length: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for name, values in columns.items():
        by_length[len(values)][name] = np.asarray(values, dtype=np.float64)
    for length, group in by_length.items():
        means = _bootstrap_means([*group.values()], np.random.default_rng(seed), samples)
        ends = np.percentile(means, bootstrap_percentiles(length, intervals), axis=1).T.tolist()
        for (name, column), (low, high) in zip(group.items(), ends, strict=True):
            yield name, (float(column.mean()), low, high)


def bootstrap_percentiles(size: int, intervals: int = 1) -> tuple[float, float]:
    """The percentiles of bootstrap means of `size` values that make a 95% interval (Hesterberg 2015).

    Plain percentiles (2.5 and 97.5) are too narrow in small samples: of 20 normal values they cover the mean
    in 92.7% of the trials, these in 95%. In large samples the two are the same. Of several `intervals` the
    share outside is divided by their number; where that is less than a sample, they end at the outermost.
    """
    tail = 0.025 / intervals
    if size < 2:
        return 100 * tail, 100 * (1 - tail)
    low = 100 * NormalDist().cdf(math.sqrt(size / (size - 1)) * t_quantile(tail, size - 1))
    return low, 100 - low


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution with `freedom` degrees (Abramowitz and Stegun 26.7.5).

    Right to three digits from four degrees of freedom on.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def hierarchical_interval(
    groups: Sequence[Sequence[float]], seed: int, samples: int
) -> tuple[float, float, float]:
    """The mean of the groups' means and its 95% percentile interval by the hierarchical bootstrap.

    A group holds the values of one seed, such as the paired difference of each question; groups may differ
    in size, and each needs at least one value. A sample draws as many groups as there are, then the values
    of each draw, both with replacement (Davison and Hinkley 1997, section 3.8). With k groups it counts
    about (k - 1) / k of the variance between them: with few seeds an interval is rather too narrow.
    """
    data = [np.asarray(values, dtype=np.float64) for values in groups]
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(data), (samples, len(data)))
    means = np.empty(draws.shape)
    for index, values in enumerate(data):
        drawn = draws == index
        (means[drawn],) = _bootstrap_means([values], rng, int(drawn.sum()))
    low, high = np.percentile(means.mean(axis=1), [2.5, 97.5])
    return float(np.mean([values.mean() for values in data])), float(low), float(high)


def _bootstrap_means(columns: Sequence[np.ndarray], rng: np.random.Generator, samples: int) -> np.ndarray:
    """The means (columns, samples) of samples that are drawn with replacement from the rows."""
    means, rows = np.empty((len(columns), samples)), len(columns[0])
    # In blocks of samples: all draws of a large evaluation would not fit into memory.
    block = max(1, DRAWS // rows)
    for start in range(0, samples, block):
        draws = rng.integers(0, rows, (min(block, samples - start), rows))
        for row, column in zip(means, columns, strict=True):
            # Without a check of each index ("clip") it takes half the time.
            row[start : start + block] = column.take(draws, mode="clip").mean(axis=1)
    return means


def share_interval(
    values: Sequence[float], seed: int, samples: int, intervals: int = 1
) -> tuple[float, float, float]:
    """`mean_interval` for values from 0 to 1, with an exact bound where all are 0 or all are 1.

    A bootstrap would be certain there. The bound is 1 - 0.025^(1/n) (Clopper and Pearson 1934); of several
    `intervals`, 0.025 is divided by their number.
    """
    mean, low, high = mean_interval(values, seed, samples, intervals)
    bound = 1 - (0.025 / intervals) ** (1 / len(values))
    return mean, 1 - bound if mean == 1 else low, bound if mean == 0 else high


def named(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    """An interval as the metrics `name`, `name_low` and `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def describe(result: Mapping[str, Any], name: str) -> str:
    """A difference with the interval that `named` stored beside it, in words."""
    if name not in result:
        return "an unknown amount"
    low, high = result[f"{name}_low"], result[f"{name}_high"]
    return f"{result[name]:+.3f} (95% interval {low:+.3f} to {high:+.3f})"


def named_interval(
    name: str, values: Sequence[float], seed: int, samples: int, intervals: int = 1
) -> dict[str, float]:
    """`mean_interval` as metrics; no metrics without values."""
    return named_intervals({name: values}, seed, samples, intervals)


def named_intervals(
    columns: Mapping[str, Sequence[float]], seed: int, samples: int, intervals: int = 1
) -> dict[str, float]:
    """`mean_interval` of each column as metrics, in half the time; no metrics of a column without values."""
    filled = {name: values for name, values in columns.items() if len(values)}
    ends = dict(_mean_intervals(filled, seed, samples, intervals))
    return {key: value for name in filled for key, value in named(name, ends[name]).items()}
