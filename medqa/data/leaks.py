"""Near-duplicates: training prompts that are a held-out prompt with a word changed, clauses swapped or words added.

Prompts come as `ultramedical.prompt_key` gives them: words, and after each ` | ` an option, the options in one order.
What tells an edit from another question depends on how much there is to read:

- *Long* prompts (exams, vignettes, contexts) that share most of their word n-grams are one. MinHash proposes pairs, the
  exact weighted Jaccard index decides: an n-gram weighs the more, the fewer prompts have its words (inverse document
  frequency), so that a shared template says little and a shared name much.
- *Short* questions are templates: "What are the symptoms of asthma?" is one word away from a question on gout, and one
  from a question on the causes of asthma. Here only what cannot change the meaning is passed over: order, function
  words, inflection, British spelling, a slip of the pen, and a word of many prompts exchanged for one of hardly any
  ("symptoms" for "manifestations"). Another name is another question, and so is another word that many prompts have.

In a script without spaces a word is a character, and two count as one word of another script. No character is exchanged
for another there: it would make hypotension (低血压) of hypertension (高血压).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from medqa.text import normal, per_word

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


def _phrases(text: str) -> str:
    """A pattern for phrases in the form of keys, the longest first."""
    return "|".join(sorted((normal(phrase) for phrase in text.split()), key=len, reverse=True))


# Function words of Chinese, Japanese and Thai; "why" and "how" are none.


def _phrases(text: str) -> str:
    """A pattern for phrases in the form of keys, the longest first."""
    return "|".join(sorted((normal(phrase) for phrase in text.split()), key=len, reverse=True))


# Function words of Chinese, Japanese and Thai. What asks for a reason or a manner is none, though it holds one.
_KEPT = "为什么 為什麼 怎么 怎麼 なぜ どう どのように ทำไม อย่างไร"
_PASSED = """的 是 有 了 吗 嗎 呢 吧 我 您 你 请 請 请问 請問 什么 什麼 哪些 哪个 哪個 哪种 哪種 主要 常见 常見 通常
    一般 包括 可以 应该 應該 关于 關於 对于 對於 告诉 告訴 は が の を に で と も へ か です ます 何 なに どの どんな
    どのような とは について 主な 教えて ください คือ อะไร มี ของ เป็น ที่ บ้าง ใด ไหน ครับ ค่ะ คะ กรุณา โปรด ช่วย บอก"""
_PARTICLES = re.compile(r"(?<!\S)(?:({})|{})(?!\S)".format(*map(_phrases, (_KEPT, _PASSED))))
# British endings and diphthongs as American ones; it is enough that both forms come out alike.
_AMERICAN = tuple(
    (re.compile(pattern), american)
    for pattern, american in (
        ("[ao]e", "e"),
        ("(?<=..)our(?=(?:s|ed|ing|ful|less|al|able)?$)", "or"),
        ("(?<=[iy])s(?=(?:e[ds]?|ers?|ing|ations?)$)", "z"),
        ("(?<=[btv])re(?=s?$)", "er"),
        ("(?<=..[ae]l)l(?=(?:ed|ing|ers?)$)", ""),
        ("(?<=log)ue(?=s?$)", ""),
        ("sulph", "sulf"),
        ("leuc(?=[ao])", "leuk"),
    )
)


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
        self.short: dict[tuple[str, ...], str] = {}  # whole keys by their words
        self.holed: dict[tuple[str, ...], list[str]] = {}  # the common words that are left out
        self.slips: dict[str, set[str]] = {}  # words of short held-out prompts by what a slip makes of them
        self.long: list[tuple[str, float]] = []  # with the sum of its n-grams' weights
        self.weights: dict[str, float] = {}  # by word
        self.index = RMinHashLSH(threshold or 1.0, PERMUTATIONS, BANDS)
        # Kept for the few that are proposed again and again; of all they would be most of this stage's memory.
        self.held_weights = lru_cache(maxsize=1024)(lambda key: self._weighed(_grams(key)))

    def count(self, key: str) -> None:
        """Take the words of a prompt into account."""
        self.total += 1
        self.counts.update({_stem(word) for part in key.split(" | ") for word in _units(part)})

    def hold(self, key: str) -> None:
        """Look out for near-duplicates of this prompt from now on."""
        if self.threshold is None or key in self.held:
            return
        self.held.add(key)
        if _length(key) >= LONG:
            grams = _grams(key)
            self.index.insert(len(self.long), _sketch(grams))
            self.long.append((key, sum(self._weighed(grams).values())))
            return
        self.cores.setdefault(_core(key), key)
        said = [_american(word) for word in _words(key)]
        self.short.setdefault(tuple(said), key)
        for rest, word in _holed(said):
            if self._share(word) >= COMMON:
                self.holed.setdefault(rest, []).append(word)
        for word in _words(key):
            for slip in {word, *_slips(word)}:
                self.slips.setdefault(slip, set()).add(word)

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
        raw = _words(key)
        said = [_american(word) for word in raw]
        for place, word in enumerate(raw):
            for other in self._slipped(word):
                if held := self.short.get((*said[:place], _american(other), *said[place + 1 :])):
                    return held
        for rest, word in _holed(said):
            for other in self.holed.get(rest, ()):
                if self._stands_for(rest, other, word):
                    return self.short[tuple(part or other for part in rest)]
        return None

    def _slipped(self, word: str) -> list[str]:
        """The held-out words of which this one is a misspelling, or the other way round.

        One of both is in another prompt too: two words of the corpus are two words (prostate and prostrate), and of two
        rare ones nobody can say, but where only neighbours have changed places.
        """
        near = self.slips.get(word, set()) | {slip for slip in _slips(word) if slip in self.slips.get(slip, ())}
        known = {other: self.counts[_stem(other)] > 1 for other in {word, *near}}
        swapped = sorted(word)
        return sorted(
            other
            for other in near - {word}
            if known[other] != known[word] or (not known[word] and sorted(other) == swapped)
        )

    def _stands_for(self, rest: tuple[str, ...], held: str, word: str) -> bool:
        """Whether a rare word can stand for the common one of the held-out prompt.

        Without a name among the other words, the one in question may be the name.
        """
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


def _units(part: str) -> list[str]:
    """The words of a key without options, in American spelling; of a script without spaces, its pairs of characters."""
    said = part.split()
    if part.isascii():
        return [_american(word) for word in said]
    alone = [per_word(word) == 1 for word in said]
    units: list[str] = []
    for at, word in enumerate(said):
        if alone[at] or (at + 1 == len(said) or alone[at + 1]) and (at == 0 or alone[at - 1]):
            units.append(_american(word))
        elif at + 1 < len(said) and not alone[at + 1]:
            units.append(word + said[at + 1])
    return units


def _length(key: str) -> float:
    """How many words it has; one with options, which say what it is about, is as good as the longest."""
    if " | " in key:
        return math.inf
    return key.count(" ") + 1 if key.isascii() else sum(1 / per_word(word) for word in _words(key))


def _core(key: str) -> tuple[str, ...]:
    """The words that carry the meaning, without their endings, sorted; all words where there is none."""
    text = key.replace(" | ", " ")
    said = _units(text if text.isascii() else _PARTICLES.sub(lambda found: found[1] or "", text)) or _units(text)
    # An article stands before a word; "hepatitis A" ends in a name.
    kept = [
        word
        for word, after in zip(said, [*said[1:], "of"], strict=True)
        if word not in FILLERS or (word == "a" and after in FILLERS)
    ]
    return tuple(sorted(_stem(word) for word in kept or said))


@lru_cache(maxsize=1 << 18)
def _american(word: str) -> str:
    if len(word) < 5 or not word.isascii():
        return word
    for pattern, american in _AMERICAN:
        word = pattern.sub(american, word)
    return word


@lru_cache(maxsize=1 << 18)
def _stem(word: str) -> str:
    word = _american(word)
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def _holed(said: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """A prompt with one word left out, for each word; not for numbers and letters, which tell types of a disease."""
    for place, word in enumerate(said):
        if len(word) >= 4 and per_word(word) == 1:
            yield (*said[:place], "", *said[place + 1 :]), word


def _slips(word: str) -> set[str]:
    """What a slip of the pen makes of a word of five letters and more: one left out, or two neighbours changed over.

    Not one exchanged for another, which is as often another word (dysphagia, dysphasia).
    """
    if not word.isalpha() or len(word) < 5:
        return set()
    swapped = {word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)} - {word}
    return swapped | ({word[:at] + word[at + 1 :] for at in range(len(word))} if len(word) > 5 else set())


def _grams(key: str) -> set[str]:
    """Words and pairs of neighbours, none across options: these are sorted, and an edit may move one."""
    parts = [_units(part) for part in key.split(" | ")]
    return {word for part in parts for word in part} | {f"{a} {b}" for part in parts for a, b in pairwise(part)}


def _sketch(grams: set[str]):
    from rensa import RMinHash

    sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update(sorted(grams))
    return sketch
