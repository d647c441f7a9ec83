"""Near-duplicates: training prompts that are a held-out prompt with a word changed, clauses swapped or words
added.

Prompts come as `ultramedical.prompt_key` gives them: words, and after each ` | ` an option, the options in
one order. What tells an edit from another question depends on how much there is to read:

- *Long* prompts (exams, vignettes, contexts) that share most of their word n-grams are one. MinHash proposes pairs, the
  exact weighted Jaccard index decides: an n-gram weighs the more, the fewer prompts have its words (inverse document
  frequency), so that a shared template says little and a shared name much.
- *Short* questions are templates: "What are the symptoms of asthma?" is one word away from a question on gout, and one
  from a question on the causes of asthma. Here only what cannot change the meaning is passed over: order, function
  words, inflection, British spelling, a slip of the pen, and a word of many prompts exchanged for one of hardly any
  ("symptoms" for "manifestations"). Another name is another question, and so is another word that many prompts have.

In a script without spaces a word is a character, and two count as one word of another script. No character is
exchanged for another there: it would make hypotension (低血压) of hypertension (高血压).
"""

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from medqa.data.word_forms import american, core, length, slips, stem, units, words
from medqa.text import per_word

LONG = 14  # words; of fewer, a template and a long name are most of the n-grams (tried on MedQuAD)
COMMON, RARE = 0.01, 0.005  # shares of the prompts that have a word: a common one from here, a rare one below
TELLING = 0.2  # of the largest weight of an n-gram; lighter ones are in most prompts, and propose none
PERMUTATIONS, BANDS = (
    128,
    32,
)  # proposes 98.9% of the pairs with a plain Jaccard index of 0.6, 23% of those with 0.3


class Decontamination:
    """Finds the held-out prompt that a training prompt is a near-duplicate of."""

    def __init__(self, threshold: float | None):
        """Take the similarity from 0 to 1 from which a long prompt is a near-duplicate; None finds none at
        all.

        First `count` every prompt there is, once: rare words are told from common ones by it. Then `hold`
        those that are held out, then `find`.
        """
        from rensa import RMinHashLSH

        self.threshold, self.total, self.counts = threshold, 0, Counter()
        self.held: set[str] = set()
        self.cores: dict[tuple[str, ...], str] = {}
        self.short: dict[tuple[str, ...], str] = {}  # whole keys by their words
        self.holed: dict[tuple[str, ...], list[str]] = {}  # the common words that are left out
        self.slips: dict[str, list[str]] = {}  # words of short held-out prompts by what a slip makes of them
        self.long: list[tuple[str, float]] = []  # with the sum of its n-grams' weights
        self.weights: dict[str, float] = {}  # by word
        self.index = RMinHashLSH(threshold or 1.0, PERMUTATIONS, BANDS)
        # Kept for the few that are proposed again and again; of all they would be most of this stage's
        # memory.
        self.held_weights = lru_cache(maxsize=1024)(lambda key: self._weighed(_grams(key)))
        self.slipped = lru_cache(maxsize=1 << 15)(self._slipped)

    def count(self, key: str) -> None:
        """Take the words of a prompt into account."""
        self.total += 1
        self.counts.update({stem(word) for part in key.split(" | ") for word in units(part)})

    def hold(self, key: str) -> None:
        """Look out for near-duplicates of this prompt from now on."""
        if self.threshold is None or key in self.held:
            return
        self.held.add(key)
        if length(key) >= LONG:
            grams = _grams(key)
            self.index.insert(len(self.long), self._sketch(grams))
            self.long.append((key, sum(self._weighed(grams).values())))
            return
        self.cores.setdefault(core(key), key)
        raw = words(key)
        said = [american(word) for word in raw]
        self.short.setdefault(tuple(said), key)
        for rest, word in _holed(said):
            if self._share(word) >= COMMON:
                self.holed.setdefault(rest, []).append(word)
        for word in raw:
            if word not in self.slips.get(word, ()):
                for slip in {word, *slips(word)}:
                    self.slips.setdefault(slip, []).append(word)

    def find(self, key: str) -> str | None:
        """The held-out key that this one is a near-duplicate of, or None. An equal one counts."""
        if self.threshold is None:
            return None
        # An edit may add or take away a few words, so that both rules must look beyond LONG.
        if length(key) < 2 * LONG and (found := self.cores.get(core(key)) or self._exchanged(key)):
            return found
        if length(key) < LONG - 2:
            return None
        grams = _grams(key)
        near = [pair for at in self._proposed(grams) if (pair := self._close(grams, *self.long[at]))]
        return max(near)[1] if near else None

    def _proposed(self, grams: set[str]) -> list[int]:
        return self.index.query(self._sketch(grams)) if self.long else []

    def _sketch(self, grams: set[str]):
        """A MinHash of the n-grams that tell something: those of a template would propose all of its prompts."""
        from rensa import RMinHash

        least = TELLING * math.log(self.total + 1)
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(
            sorted(gram for gram, weight in self._weighed(grams).items() if weight >= least) or sorted(grams)
        )
        return sketch

    def _close(self, grams: set[str], key: str, whole: float) -> tuple[float, str] | None:
        """The weighted Jaccard index with a held-out prompt, and its key, from the threshold on."""
        held = self.held_weights(key)
        shared = sum(held[gram] for gram in grams & held.keys())
        # The index is at most the share of the held-out prompt, which costs less to know.
        if shared < self.threshold * whole:
            return None
        similarity = shared / (whole + sum(self._weighed(grams).values()) - shared)
        return (similarity, key) if similarity >= self.threshold else None

    def _exchanged(self, key: str) -> str | None:
        """The short held-out key from which this one differs by one word that can stand for the other."""
        raw = words(key)
        said = [american(word) for word in raw]
        for place, word in enumerate(raw):
            for other in self.slipped(word):
                if same := self.short.get((*said[:place], american(other), *said[place + 1 :])):
                    return same
        for rest, word in _holed(said):
            for other in self.holed.get(rest, ()):
                if self._stands_for(rest, other, word):
                    return self.short[tuple(part or other for part in rest)]
        return None

    def _slipped(self, word: str) -> list[str]:
        """The held-out words of which this one is a misspelling, or the other way round.

        One of both is in another prompt too: two words of the corpus are two words (prostate and prostrate),
        and of two rare ones nobody can say, but where only neighbours have changed places.
        """
        near = {*self.slips.get(word, ())} | {
            slip for slip in slips(word) if slip in self.slips.get(slip, ())
        }
        known = {other: self.counts[stem(other)] > 1 for other in {word, *near}}
        swapped = sorted(word)
        return sorted(
            other
            for other in near - {word}
            if known[other] != known[word] or (not known[word] and sorted(other) == swapped)
        )

    def _stands_for(self, rest: tuple[str, ...], common: str, word: str) -> bool:
        """Whether a rare word can stand for a common one of a held-out prompt.

        Without a name among the other words, the one in question may be the name.
        """
        named = any(other and self._share(other) < COMMON for other in rest)
        return named and self._share(common) >= COMMON and self._share(word) < RARE

    def _share(self, word: str) -> float:
        return self.counts[stem(word)] / self.total

    def _weighed(self, grams: set[str]) -> dict[str, float]:
        """N-grams with their weights: the mean inverse document frequency of their words."""
        weighed = {}
        for gram in grams:
            said = gram.split()
            for word in said:
                if word not in self.weights:
                    # Smoothed, so that a word that every prompt has still weighs a little.
                    self.weights[word] = math.log((self.total + 1) / (self.counts[stem(word)] + 1)) + 0.01
            weighed[gram] = sum(self.weights[word] for word in said) / len(said)
        return weighed


def _holed(said: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """A prompt with one word left out, for each word; not for numbers and letters, which tell types of a
    disease.
    """
    for place, word in enumerate(said):
        if len(word) >= 4 and per_word(word) == 1:
            yield (*said[:place], "", *said[place + 1 :]), word


def _grams(key: str) -> set[str]:
    """Words and pairs of neighbours, none across options: these are sorted, and an edit may move one."""
    parts = [units(part) for part in key.split(" | ")]
    return {word for part in parts for word in part} | {
        f"{a} {b}" for part in parts for a, b in pairwise(part)
    }
