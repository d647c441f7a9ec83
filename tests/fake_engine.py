"""An engine without a model: it answers by plain functions and remembers its prompts."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from medqa import prompts
from medqa.engines import Completion, Failure, Labels, Likelihood, Request
from medqa.prompts import LABELS
from medqa.text import words

METHOD_LABELS = (LABELS, *(prompts.labels(template) for template in prompts.templates("points")))


def requests(texts: Sequence[str], seed: int = 0, answer: str = "") -> list[Request]:
    """A request for each text, with the ids q0, q1 and so on."""
    return [Request(f"q{n}", prompts.ask(text), seed, answer) for n, text in enumerate(texts)]


def embed(texts: Sequence[str]) -> np.ndarray:
    """An encoder by words: the cosine of equal texts is 1, that of texts without a common word 0."""
    bags = [Counter(words(text)) for text in texts]
    vocabulary = sorted(set().union(*bags)) or [""]
    counts = np.array([[bag[word] for word in vocabulary] for bag in bags], dtype=np.float32)
    counts = counts.reshape(len(texts), len(vocabulary))
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)


def labels(*probabilities: float, mass: float = 1.0) -> Labels:
    return Labels(probabilities, mass)


def certain(label: str, mass: float = 1.0) -> Labels:
    """All of the labels' mass on one of them."""
    return Labels(tuple(float(label == each) for each in LABELS), mass)


def by_candidate(score: Callable[[str], float | None]) -> Callable[[str], Labels]:
    """Judges by the candidate, the middle of a prompt of judge-short. None is a label mass of 0.1."""

    def judges(prompt: str) -> Labels:
        value = score(prompt.partition("\n")[2].rpartition("\n")[0])
        share = float(value or 0)
        return Labels((1 - share, 0.0, 0.0, 0.0, share), 0.1 if value is None else 0.9)

    return judges


class FakeEngine:
    """`says` maps a prompt and a seed to a text, `judges` a prompt to Labels, `likes` an answer to nats.

    A request whose prompt `fails` accepts is a Failure.
    """

    def __init__(
        self,
        says: Callable[[str, int], str] = lambda prompt, seed: prompt,
        judges: Callable[[str], Labels] = lambda prompt: certain("3"),
        likes: Callable[[str], float] = lambda answer: -float(len(answer)),
        fails: Callable[[str], bool] = lambda prompt: False,
    ):
        self.says, self.judges, self.likes, self.fails = says, judges, likes, fails
        self.prompts: list[str] = []
        self.answers: list[str] = []
        self.sampling: Any = None

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """It holds no memory."""

    def generate(self, requests: Sequence[Request], sampling: Any) -> Iterator[tuple[str, Any]]:
        self.sampling = sampling

        def write(prompt: str, request: Request) -> Completion:
            text = self.says(prompt, request.seed)
            return Completion(text, "length" if text.endswith("-") else "stop", len(text.split()))

        return self._each(requests, write)

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Any]]:
        assert tuple(labels) in METHOD_LABELS
        return self._each(requests, lambda prompt, request: self.judges(prompt))

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Any]]:
        def read(prompt: str, request: Request) -> Likelihood:
            self.answers.append(request.answer)
            return Likelihood(self.likes(request.answer), len(request.answer.split()))

        return self._each(requests, read)

    def _each(
        self, requests: Sequence[Request], compute: Callable[[str, Request], Any]
    ) -> Iterator[tuple[str, Any]]:
        for request in requests:
            prompt = request.messages[-1]["content"]
            self.prompts.append(prompt)
            failed = self.fails(prompt)
            yield request.id, Failure("does not fit") if failed else compute(prompt, request)
