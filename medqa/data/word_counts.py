"""In how many prompts each word occurs."""

import math
from collections import Counter

from medqa.data.word_forms import stem, units


class WordCounts:
    """The number of prompts and, by stem, of the prompts that hold a word. All prompts are added first."""

    def __init__(self) -> None:
        self.prompts = 0
        self.by_stem: Counter[str] = Counter()
        self._weights: dict[str, float] = {}

    def add(self, key: str) -> None:
        """Count the words of a prompt."""
        self.prompts += 1
        self.by_stem.update({stem(word) for part in key.split(" | ") for word in units(part)})

    def prompts_with(self, word: str) -> int:
        return self.by_stem[stem(word)]

    def share(self, word: str) -> float:
        """The share of the prompts that hold a word."""
        return self.prompts_with(word) / self.prompts

    def weight(self, word: str) -> float:
        """The inverse document frequency of a word, smoothed: a word of every prompt weighs a little."""
        if word not in self._weights:
            self._weights[word] = math.log((self.prompts + 1) / (self.prompts_with(word) + 1)) + 0.01
        return self._weights[word]
