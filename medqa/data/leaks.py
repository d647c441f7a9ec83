"""Near-duplicates: training prompts that are a held-out prompt with a word changed, clauses swapped or words added.

Prompts come as `ultramedical.prompt_key` gives them: words, and after each ` | ` an option, the options in one order.
What tells an edit from another question depends on how much there is to read:

- *Long* prompts (exams, vignettes, contexts) that share most of their word n-grams are one. MinHash proposes pairs, the
  exact weighted Jaccard index decides: an n-gram weighs the more, the fewer prompts have its words (inverse document
  frequency), so that a shared template says little and a shared name much.
- *Short* questions are templates: "What are the symptoms of asthma?" is one word away from a question on gout, and one
  from a question on the causes of asthma. Here only what cannot change the meaning is passed over: order, function
  words, inflection, and a word of many prompts exchanged for one of hardly any ("symptoms" for "manifestations").
  Another name is another question, and so is another word that many prompts have.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

LONG = 14  # words; of fewer, a template and a long name are most of the n-grams (tried on MedQuAD)
COMMON, RARE = 0.01, 0.005  # shares of the prompts that have a word: a common one from here, a rare one below
PERMUTATIONS, BANDS = 128, 32  # proposes 98.9% of the pairs with a plain Jaccard index of 0.6, 23% of those with 0.3
FILLERS = frozenset(
    re.findall(
        r"\w+",
        """a an the is are was were be been am does did has have had can could would should will may might shall
        of in on at to for from with by about into as and or so then there it its this that these those me my you your
        we us what which please tell give explain describe kindly know main common typical usual possible exactly""",
    )
)
_ENDINGS = ("ing", "ed", "es", "s")


class Leaks:
    """Finds the held-out prompt that a training prompt is a near-duplicate of."""

    def __init__(self, threshold: float | None):
        """Take the similarity from 0 to 1 from which a long prompt is a near-duplicate; None finds none at all.

        First `count` every prompt there is, once: rare words are told from common ones by it. Then `hold` those that
        are held out, then `find`.
        """
        from rensa import RMinHashLSH

        self.threshold, self.total, self.counts = threshold, 0, Counter()
        self.held: set[str] = set()
        self.cores: dict[tuple[str, ...], str] = {}
        self.holed: dict[tuple[str, ...], list[tuple[str, str]]] = {}  # the word that is left out, and the whole
        self.long: list[tuple[str, float]] = []  # with the sum of its n-grams' weights
        self.weights: dict[str, float] = {}  # by word
        self.index = RMinHashLSH(threshold or 1.0, PERMUTATIONS, BANDS)
        # Kept for the few that are proposed again and again; of all they would be most of this stage's memory.
        self.held_weights = lru_cache(maxsize=1024)(lambda key: self._weighed(_grams(key)))

    def count(self, key: str) -> None:
        """Take the words of a prompt into account."""
        self.total += 1
        self.counts.update({_stem(word) for word in _words(key)})

    def hold(self, key: str) -> None:
        """Look out for near-duplicates of this prompt from now on."""
        if self.threshold is None or key in self.held:
            return
        self.held.add(key)
        if _length(key) >= LONG:
            grams = _grams(key)
            self.index.insert(len(self.long), _sketch(grams))
            self.long.append((key, sum(self._weighed(grams).values())))
        else:
            self.cores.setdefault(_core(key), key)
            for rest, word in _holed(key):
                self.holed.setdefault(rest, []).append((word, key))

    def find(self, key: str) -> str | None:
        """The held-out key that this one is a near-duplicate of, or None. An equal one counts."""
        if self.threshold is None:
            return None
        # An edit may add or take away a few words, so that both rules must look beyond LONG.
        if _length(key) < 2 * LONG and (found := self.cores.get(_core(key)) or self._exchanged(key)):
            return found
        if _length(key) < LONG - 2:
            return None
        grams = _grams(key)
        near = [pair for at in self._proposed(grams) if (pair := self._close(grams, *self.long[at]))]
        return max(near)[1] if near else None

    def _proposed(self, grams: set[str]) -> list[int]:
        return self.index.query(_sketch(grams)) if self.long else []

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
        for rest, word in _holed(key):
            for other, held in self.holed.get(rest, ()):
                if self._exchangeable(rest, other, word):
                    return held
        return None

    def _exchangeable(self, rest: tuple[str, ...], held: str, word: str) -> bool:
        """Whether a word can stand for that of the held-out prompt: another spelling, or a rare one for a common one.

        Without a name among the other words, the one in question may be the name.
        """
        if _spelt_alike(held, word):
            return True
        named = any(other and self._share(other) < COMMON for other in rest)
        return named and self._share(held) >= COMMON and self._share(word) < RARE

    def _share(self, word: str) -> float:
        return self.counts[_stem(word)] / self.total

    def _weighed(self, grams: set[str]) -> dict[str, float]:
        """N-grams with their weights: the mean inverse document frequency of their words."""
        weighed = {}
        for gram in grams:
            said = gram.split()
            for word in said:
                if word not in self.weights:
                    # Smoothed, so that a word that every prompt has still weighs a little.
                    self.weights[word] = math.log((self.total + 1) / (self.counts[_stem(word)] + 1)) + 0.01
            weighed[gram] = sum(self.weights[word] for word in said) / len(said)
        return weighed


def _words(key: str) -> list[str]:
    return key.replace(" | ", " ").split()


def _length(key: str) -> float:
    """How many words it has; one with options, which say what it is about, is as good as the longest."""
    return math.inf if " | " in key else key.count(" ") + 1


def _core(key: str) -> tuple[str, ...]:
    """The words that carry the meaning, without their endings, sorted; all words where there is none."""
    said = _words(key)
    # An article stands before a word; "hepatitis A" ends in a name.
    kept = [
        word
        for word, after in zip(said, [*said[1:], "of"], strict=True)
        if word not in FILLERS or (word == "a" and after in FILLERS)
    ]
    return tuple(sorted(_stem(word) for word in kept or said))


@lru_cache(maxsize=1 << 18)
def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def _holed(key: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """A prompt with one word left out, for each word; not for numbers and letters, which tell types of a disease."""
    said = _words(key)
    for place, word in enumerate(said):
        if len(word) >= 4:
            yield (*said[:place], "", *said[place + 1 :]), word


def _spelt_alike(one: str, two: str) -> bool:
    """Whether two long words differ by one letter, as "tumour" and "tumor" do, or by two neighbours' order."""
    if min(len(one), len(two)) < 5 or abs(len(one) - len(two)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    one, two = one[start:], two[start:]
    return one[1:] == two[1:] or one[1:] == two or one == two[1:] or (one[1::-1] == two[:2] and one[2:] == two[2:])


def _grams(key: str) -> set[str]:
    """Words and pairs of neighbours, none across options: these are sorted, and an edit may move one."""
    parts = [part.split() for part in key.split(" | ")]
    pairs = (f"{one} {two}" for part in parts for one, two in zip(part, part[1:], strict=False))
    return {word for part in parts for word in part} | set(pairs)


def _sketch(grams: set[str]):
    from rensa import RMinHash

    sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update(sorted(grams))
    return sketch
