"""The engine of a judge that is an encoder: it tells whether a text says a statement, and writes no text."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from medqa import encoder, late_interaction
from medqa.engines.base import Completion, Failure, Labels, Likelihood, Request, Sampling
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

TEXTS, STATEMENTS = 64, 1024  # whose vectors are in memory at once


class EncoderEngine:
    """A tuned encoder in this process, in float32.

    Each text goes through the model alone: the others can change nothing about it.
    """

    def __init__(self, model_dir: Path):
        self.net, self.tokenizer = encoder.load(model_dir), encoder.load_tokenizer(model_dir)
        self.calibration = late_interaction.read_calibration(model_dir)
        self.text_vectors = lru_cache(TEXTS)(partial(self._vectors, statement=False))
        self.statement_vectors = lru_cache(STATEMENTS)(partial(self._vectors, statement=True))

    def close(self) -> None:
        """Nothing to give back but memory, which goes with the object."""

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels | Failure]]:
        """The probabilities of no and yes. The first message is the text, the second the statement.

        Raises UserError for other messages or more labels.
        """
        for request in requests:
            if len(request.messages) != 2 or len(labels) != 2:
                raise UserError("an encoder judges pairs; set judge.template to points-pair in params.yaml")
            text, statement = (message["content"] for message in request.messages)
            vectors = self.statement_vectors(statement), self.text_vectors(text)
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

    def _vectors(self, text: str, statement: bool) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        row = encoder.tokenize(self.tokenizer, [text])
        with torch.inference_mode():
            return late_interaction.token_vectors(self.net, row, statement)
