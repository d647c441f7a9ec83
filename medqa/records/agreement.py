"""What the judge says of labelled pairs and of attacks; the stage `agreement` writes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgedPair:
    """A labelled pair as the judge, the base model and the encoder see it."""

    id: str
    label_type: str
    chosen_score: float | None
    rejected_score: float | None
    mass: float  # the lesser of the two sides
    chosen_words: int
    rejected_words: int
    chosen_logprob: float | None  # under the base model, as in Answer
    rejected_logprob: float | None
    chosen_similarity: float  # cosine of question and answer under the encoder
    rejected_similarity: float
    with_reference: bool
    judge: str  # the model that gave the scores
    labelled_by: str = "unknown"  # as in Labelled
    groups: tuple[str, ...] = ()  # as in Labelled


@dataclass(frozen=True)
class AttackResult:
    """An attempt to fool the judge, beside the honest texts for the same question."""

    id: str  # labelled pair#attack
    attack: str  # its name in medqa/attacks/attacks.yaml
    kind: str  # key, verdict or padding
    text: str
    score: float | None
    plain_score: float | None  # of the poor answer that it pads or argues for; None where it uses no answer
    honest_score: float | None  # of the answer labelled better
    reference_score: float | None  # of the reference itself as an answer
