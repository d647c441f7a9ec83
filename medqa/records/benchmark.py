"""A model's answers to benchmark questions; the stage `benchmark` writes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchmarkAnswer:
    """The option that a model finds likeliest."""

    id: str  # the task, and the row's number in its file, from 1
    task: str  # of lm-eval
    choice: str  # the likeliest option; of equal ones the first
    expected: str  # the right option
    correct: bool
    options: tuple[str, ...]
    logprobs: tuple[float, ...]  # of each option after the prompt, in nats
    contaminated_by: str  # the training row that repeats the question, equal or nearly so; empty without one
