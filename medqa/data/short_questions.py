"""Near-duplicates of short questions.

Short questions are templates: "What are the symptoms of asthma?" is one word away from a question on gout,
and one from a question on the causes of asthma. Only what cannot change the meaning is ignored: order,
function words, inflection, British spelling, a misspelling, and a word of many prompts exchanged for one of
hardly any ("symptoms" for "manifestations"). Another name is another question, and so is another word of many
prompts.

In a script without spaces a word is a character. No character is exchanged for another there: it would make
hypotension (低血压) of hypertension (高血压).
"""

from collections.abc import Iterator
from functools import lru_cache

from medqa.data.word_counts import WordCounts
from medqa.data.word_forms import american, core, misspellings, words
from medqa.text import per_word

COMMON, RARE = 0.01, 0.005  # shares of the prompts that hold a word: from here it is common, below it is rare


class ShortQuestions:
    """The short held-out questions, by the forms in which a training prompt may repeat them."""

    def __init__(self, counts: WordCounts):
        self.counts = counts
        self.by_core: dict[tuple[str, ...], str] = {}
        self.by_words: dict[tuple[str, ...], str] = {}
        self.common_words: dict[tuple[str, ...], list[str]] = {}  # by the other words of their question
        self.by_misspelling: dict[str, list[str]] = {}  # words by their misspellings
        self._misspelled = lru_cache(maxsize=1 << 15)(self._find_misspelled)

    def add(self, key: str) -> None:
        """Take a held-out question into account."""
        self.by_core.setdefault(core(key), key)
        spelled = words(key)
        american_words = [american(word) for word in spelled]
        self.by_words.setdefault(tuple(american_words), key)
        for context, word in _gaps(american_words):
            if self.counts.share(word) >= COMMON:
                self.common_words.setdefault(context, []).append(word)
        for word in spelled:
            if word not in self.by_misspelling.get(word, ()):
                for form in {word, *misspellings(word)}:
                    self.by_misspelling.setdefault(form, []).append(word)

    def match(self, key: str) -> str | None:
        """The key of the held-out question that this prompt repeats, or None."""
        return self.by_core.get(core(key)) or self._match_misspelling(key) or self._match_synonym(key)

    def _match_misspelling(self, key: str) -> str | None:
        """The held-out question that differs by one misspelled word."""
        spelled = words(key)
        american_words = [american(word) for word in spelled]
        for index, word in enumerate(spelled):
            for held_out_word in self._misspelled(word):
                changed = (*american_words[:index], american(held_out_word), *american_words[index + 1 :])
                if match := self.by_words.get(changed):
                    return match
        return None

    def _find_misspelled(self, word: str) -> list[str]:
        """The held-out words of which this one is a misspelling, or the reverse.

        One of both must be in another prompt too: two words of the corpus are two words (prostate and
        prostrate). Of two rare ones nobody can say, unless only neighbouring letters are swapped.
        """
        similar = {*self.by_misspelling.get(word, ())}
        similar |= {form for form in misspellings(word) if form in self.by_misspelling.get(form, ())}
        is_known = {form: self.counts.prompts_with(form) > 1 for form in {word, *similar}}
        letters = sorted(word)
        return sorted(
            form
            for form in similar - {word}
            if is_known[form] != is_known[word] or (not is_known[word] and sorted(form) == letters)
        )

    def _match_synonym(self, key: str) -> str | None:
        """The held-out question that has a common word where this prompt has a rare one."""
        for context, word in _gaps([american(word) for word in words(key)]):
            for common in self.common_words.get(context, ()):
                # Without a name among the other words, the word may be the name.
                has_name = any(name and self.counts.share(name) < COMMON for name in context)
                if has_name and self.counts.share(word) < RARE:
                    return self.by_words[tuple(name or common for name in context)]
        return None


def _gaps(spelled: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """A prompt with a gap in place of one word, and the word; numbers and letters, which name types, stay."""
    for index, word in enumerate(spelled):
        if len(word) >= 4 and per_word(word) == 1:
            yield (*spelled[:index], "", *spelled[index + 1 :]), word
