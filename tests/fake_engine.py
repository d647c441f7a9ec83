"""An engine without a model: it answers by plain functions and remembers what it was asked."""

from collections.abc import Callable, Sequence
from typing import Any

from medqa.engines import Completion, Labels, Likelihood
from medqa.prompts import LABELS


def labels(*probabilities: float, mass: float = 1.0) -> Labels:
    return Labels(probabilities, mass)


def certain(label: str, mass: float = 1.0) -> Labels:
    """All of the labels' mass on one of them."""
    return Labels(tuple(float(label == each) for each in LABELS), mass)


class FakeEngine:
    """`says` maps the asked text (and a seed) to a text, `judges` it to Labels, `likes` an answer to nats."""

    def __init__(
        self,
        says: Callable[[str, int], str] = lambda asked, seed: asked,
        judges: Callable[[str], Labels] = lambda asked: certain("3"),
        likes: Callable[[str], float] = lambda answer: -float(len(answer)),
    ):
        self.says, self.judges, self.likes = says, judges, likes
        self.asked: list[str] = []
        self.sampling: Any = None
        self.seeds: list[int] = []

    def generate(self, asked: Sequence[Any], sampling: Any, seeds: Sequence[int]) -> list[Completion]:
        self.asked += [messages[-1]["content"] for messages in asked]
        self.sampling = sampling
        self.seeds += seeds
        texts = [
            self.says(messages[-1]["content"], seed) for messages, seed in zip(asked, seeds, strict=True)
        ]
        return [
            Completion(text, "length" if text.endswith("-") else "stop", len(text.split())) for text in texts
        ]

    def label_probabilities(self, asked: Sequence[Any], labels: Sequence[str]) -> list[Labels]:
        assert tuple(labels) == LABELS
        self.asked += [messages[-1]["content"] for messages in asked]
        return [self.judges(messages[-1]["content"]) for messages in asked]

    def answer_logprobs(self, asked: Sequence[Any], answers: Sequence[str]) -> list[Likelihood]:
        return [
            Likelihood(self.likes(answer), len(answer.split()))
            for _, answer in zip(asked, answers, strict=True)
        ]

    def free(self) -> None:
        """It holds no memory."""
