"""Measured answers to held-out questions; the stage `evaluate` writes them."""

from dataclasses import dataclass

from medqa.records.scores import Score


@dataclass(frozen=True)
class Answer(Score):
    """A model's greedy answer to a held-out question, with all that is measured of it.

    A log-probability is a sum of nats over the answer's tokens, its end-of-turn token included.
    """

    id: str
    kind: str
    text: str
    finish_reason: str
    tokens: int
    key_point_recall: float
    token_f1: float
    rouge_l: float
    coverage: float | None  # of the reference's sentences by its own, from 0 to 1; None without a reference
    repetition: float  # share of its word trigrams that occur in it before
    choice: str  # the option read out of the answer; empty without options or where none could be read
    correct: bool | None  # None where the question has no options
    chosen_logprob: float | None  # of the answer labelled better; None where there is none
    rejected_logprob: float | None
    chosen_tokens: int | None  # the number of tokens of that sum
    reference_logprob: float | None  # of the reference as an answer; None where it is empty
    reference_tokens: int | None  # the number of tokens of that sum
    judge: str  # the model that gave the scores
    thinking: str = ""  # as in Candidate; its tokens are among `tokens`
    groups: tuple[str, ...] = ()  # as in HeldOut
    rejected_tokens: int | None = None  # the number of tokens of `rejected_logprob`
