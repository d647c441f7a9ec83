"""Near-duplicates: training prompts that repeat a held-out prompt with a few words changed, moved or added.

Prompts come as `options.prompt_key` gives them: words, and after each ` | ` an option, the options in one
order. What tells an edit from another question depends on the length: see `LongPrompts`, and
`short_questions`. In a script without spaces a word is a character, and two count as one word of another
script.
"""

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from medqa.data.short_questions import ShortQuestions
from medqa.data.word_counts import WordCounts
from medqa.data.word_forms import count_words, units

if TYPE_CHECKING:
    from rensa import RMinHash

LONG = 14  # words; of fewer, a template and a long name are most of the n-grams (tried on MedQuAD)
INFORMATIVE = 0.2  # of the largest weight of an n-gram; lighter ones are in most prompts, and propose none
# Proposes 98.9% of the pairs with a plain Jaccard index of 0.6, and 23% of those with 0.3.
PERMUTATIONS, BANDS = 128, 32


class Decontamination:
    """Finds the held-out prompt of which a training prompt is a near-duplicate.

    First `count_words` of every prompt there is, once: that tells rare words from common ones. Then
    `add_held_out`, then `match`.
    """

    def __init__(self, threshold: float | None, counts: WordCounts | None = None):
        """Take the similarity (0 to 1) that makes a long prompt a near-duplicate; None matches nothing.

        `counts` are those of another decontamination that has counted the words of all prompts.
        """
        self.threshold = threshold
        self.counts = counts or WordCounts()
        self.held_out: set[str] = set()
        self.short = ShortQuestions(self.counts)
        self.long = LongPrompts(self.counts, threshold or 1.0)

    def count_words(self, key: str) -> None:
        self.counts.add(key)

    def add_held_out(self, key: str) -> None:
        if self.threshold is not None and key not in self.held_out:
            self.held_out.add(key)
            (self.long if count_words(key) >= LONG else self.short).add(key)

    def match(self, key: str) -> str | None:
        """The held-out key of which this one is a near-duplicate, or None. An equal one counts."""
        if self.threshold is None:
            return None
        # An edit may add or remove a few words, so that both rules must look beyond LONG.
        length = count_words(key)
        match = self.short.match(key) if length < 2 * LONG else None
        return match or (self.long.match(key) if length >= LONG - 2 else None)


class LongPrompts:
    """The long held-out prompts (exams, vignettes, contexts): those that share most of their n-grams are one.

    MinHash proposes pairs, the exact weighted Jaccard index decides. An n-gram weighs more, the fewer prompts
    have its words (inverse document frequency): a shared template says little and a shared name much.
    """

    def __init__(self, counts: WordCounts, threshold: float):
        from rensa import RMinHashLSH

        self.counts, self.threshold = counts, threshold
        self.prompts: list[tuple[str, float]] = []  # keys with the sums of their n-grams' weights
        self.index = RMinHashLSH(threshold, PERMUTATIONS, BANDS)
        # For the few that are proposed again and again; of all, they would be most of this stage's memory.
        self._weights_of_key = lru_cache(maxsize=1024)(lambda key: self._weights(_ngrams(key)))

    def add(self, key: str) -> None:
        """Take a held-out prompt into account."""
        ngrams = _ngrams(key)
        self.index.insert(len(self.prompts), self._sketch(ngrams))
        self.prompts.append((key, sum(self._weights(ngrams).values())))

    def match(self, key: str) -> str | None:
        """The key of the most similar held-out prompt, from the threshold on, or None."""
        if not self.prompts:
            return None
        ngrams = _ngrams(key)
        proposed = (self.prompts[number] for number in self.index.query(self._sketch(ngrams)))
        similarities = [(self._similarity(ngrams, *prompt), prompt[0]) for prompt in proposed]
        similarity, match = max(similarities, default=(0.0, None))
        return match if similarity >= self.threshold else None

    def _sketch(self, ngrams: set[str]) -> "RMinHash":
        """A MinHash of the informative n-grams: those of a template would propose all of its prompts."""
        from rensa import RMinHash

        least = INFORMATIVE * math.log(self.counts.prompts + 1)
        informative = [ngram for ngram, weight in self._weights(ngrams).items() if weight >= least]
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(sorted(informative or ngrams))
        return sketch

    def _similarity(self, ngrams: set[str], key: str, total: float) -> float:
        """The weighted Jaccard index with a held-out prompt of this total weight; 0 below the threshold."""
        weights = self._weights_of_key(key)
        shared = sum(weights[ngram] for ngram in ngrams & weights.keys())
        # The index is at most the share of the held-out prompt, which costs less to know.
        if shared < self.threshold * total:
            return 0.0
        return shared / (total + sum(self._weights(ngrams).values()) - shared)

    def _weights(self, ngrams: set[str]) -> dict[str, float]:
        """N-grams with their weights: the mean weight of their words."""
        weight = self.counts.weight
        return {ngram: sum(map(weight, parts := ngram.split())) / len(parts) for ngram in ngrams}


def _ngrams(key: str) -> set[str]:
    """Words and pairs of neighbours, none across options: these are sorted, and an edit may move one."""
    parts = [units(part) for part in key.split(" | ")]
    return {word for part in parts for word in part} | {
        f"{a} {b}" for part in parts for a, b in pairwise(part)
    }
