"""The engine of a judge that is an encoder: it tells whether a text says a statement, and writes no text."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from medqa import encoder, late_interaction
from medqa.engines.base import Completion, Failure, Labels, Likelihood, Request, Sampling
from medqa.runtime.errors import UserError

TEXTS, STATEMENTS = 64, 1024  # whose vectors are in memory at once


class EncoderEngine:
    """A tuned encoder in this process, in float32.

    Each text goes through the model alone: the others can change nothing about it.
    """

    def __init__(self, model_dir: Path):
        self.net, self.tokenizer = encoder.load(model_dir), encoder.load_tokenizer(model_dir)
        self.calibration = late_interaction.read_calibration(model_dir)
        self.text_vectors = lru_cache(TEXTS)(self._text_vectors)
        self.statement_vectors = lru_cache(STATEMENTS)(self._statement_vectors)

    def close(self) -> None:
        """Nothing to give back but memory, which goes with the object."""

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels | Failure]]:
        """The probabilities of no and yes. The messages are a text, a statement and its question.

        Raises UserError for other messages or more labels.
        """
        for request in requests:
            if len(request.messages) != 3 or len(labels) != 2:
                raise UserError("an encoder judges pairs; set judge.template to points-pair in params.yaml")
            text, statement, question = (message["content"] for message in request.messages)
            vectors = self.statement_vectors(statement, question), self.text_vectors(text)
            yes = self.calibration.probability(late_interaction.similarities(*vectors).item())
            yield request.id, Labels((1 - yes, yes), 1.0)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[str, Completion | Failure]]:
        """Raises UserError."""
        raise UserError("an encoder writes no answers; models.base in params.yaml has to be a language model")

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Likelihood | Failure]]:
        """Raises UserError."""
        raise UserError("an encoder knows no likelihoods; models.base has to be a language model")

    def _text_vectors(self, text: str) -> late_interaction.TokenVectors:
        import torch

        with torch.inference_mode():
            return late_interaction.token_vectors(self.net, encoder.tokenize(self.tokenizer, [text]))

    def _statement_vectors(self, statement: str, question: str) -> late_interaction.TokenVectors:
        import torch

        rows = (encoder.tokenize(self.tokenizer, [words]) for words in (statement, question))
        with torch.inference_mode():
            return late_interaction.statement_vectors(self.net, *rows)
