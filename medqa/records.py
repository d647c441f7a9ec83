"""Every row that passes between stages: frozen records, kept as JSON lines, one a line, sorted by id.

A file is written beside its place and moved there when it is whole, so that what is in place is never
half-written.
"""

from dataclasses import dataclass

KINDS = ("open", "exam", "literature")


@dataclass(frozen=True)
class Example:
    """A question and the answer to learn (data/sft.jsonl)."""

    id: str
    kind: str  # one of KINDS
    question: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question that candidates are written for (data/questions.jsonl). The policy never sees the reference."""

    id: str
    question: str
    reference: str


@dataclass(frozen=True)
class HeldOut:
    """A question that no training row shares, with what people preferred (data/heldout.jsonl)."""

    id: str
    kind: str
    question: str
    reference: str
    key_points: tuple[str, ...]  # empty where the source names none
    gold: str  # the right option's letter; empty where the question has no options
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Labelled:
    """A pair that people (or a stronger model) labelled (data/labelled.jsonl). It is never trained on."""

    id: str
    label_type: str  # easy, hard, length or human
    question: str
    reference: str  # empty where the source has none but the chosen answer itself
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Quarantined:
    """A source row that could not be used, and why (data/quarantine.jsonl)."""

    id: str
    file: str
    line: int  # from 1; of a JSON array, the row's number
    reason: str
    text: str  # the beginning of the row


@dataclass(frozen=True)
class ValidationExample:
    """An example that a judge was not trained on, with its labels (models/judge/validation.jsonl)."""

    id: str
    text: str
    expected: tuple[str, ...]  # the right label of each criterion
    predicted: tuple[str, ...]  # the label of each criterion that the judge finds likeliest


@dataclass(frozen=True)
class RowAudit:
    """What became of a source row, once for each output it could have gone to (data/audit.jsonl)."""

    id: str  # output:source:file:line
    output: str  # sft, questions, held_out or labelled
    row: str  # the id that the source gives the row; of a kept row, its id in the output
    kind: str  # one of KINDS; empty where the row could not be read
    label_type: str  # empty for SFT rows, and where the row could not be read
    outcome: str  # kept, quarantined, other_kind, leaked, near_duplicate, duplicate or over_limit
    reason: (
        str  # the row beside a leaked or duplicate one, the reason of a quarantined one, what a kept one lost
    )


@dataclass(frozen=True)
class Provenance:
    """Where the rows of the SFT or the preference set came from (data/provenance.jsonl)."""

    id: str  # sft or preference
    source: str  # embedded, hub or files
    name: str  # the repository, or the files
    commit: str  # of the repository; empty where there is none


@dataclass(frozen=True)
class Candidate:
    """One sampled answer (data/candidates.jsonl); its id is question_id#sample."""

    id: str
    question_id: str
    sample: int
    question: str
    reference: str
    text: str
    finish_reason: (
        str  # stop, length where the token limit cut it off, or failed where the model could not answer
    )
    thinking: str = (
        ""  # what a reasoning model wrote before its answer; neither judged nor measured nor trained on
    )


@dataclass(frozen=True)
class Score:
    """What the judge says of an answer: 0 (worst) to 1 a criterion, or none with a reason."""

    accuracy: float | None
    completeness: float | None
    key_points: float | None
    score: float | None  # their weighted mean
    mass: float  # the least probability that the labels held together, over the criteria
    truncated_chars: (
        int  # characters of question, reference and answer that were cut out because they were too long
    )
    unscored: str  # why there is no score; empty where there is one


@dataclass(frozen=True)
class Judged(Candidate, Score):
    """A candidate with its scores (data/judged.jsonl)."""


@dataclass(frozen=True)
class Pair:
    """Two candidates of one question, the better first (data/pairs.jsonl)."""

    id: str
    question: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True)
class Answer(Score):
    """A model's greedy answer to a held-out question with all that is measured of it
    (data/answers/NAME.jsonl).
    """

    id: str
    kind: str
    text: str
    finish_reason: str
    tokens: int
    key_point_recall: float
    token_f1: float
    rouge_l: float
    repetition: float  # share of its word trigrams that occur in it before
    choice: (
        str  # the option read out of the answer; empty where the question has none or it could not be read
    )
    correct: bool | None  # none where the question has no options
    chosen_logprob: (
        float | None
    )  # sum over the tokens of the answer that people chose; none where there is none
    rejected_logprob: float | None
    chosen_tokens: int | None  # how many that sum is over, its end-of-turn token included
    reference_logprob: (
        float | None
    )  # nats, as above, of the reference given as the answer; none where it is empty
    reference_tokens: int | None  # how many that sum is over
    judge: str  # the model that gave the scores
    thinking: str = ""  # as in Candidate; its tokens are among `tokens`


@dataclass(frozen=True)
class JudgedPair:
    """A labelled pair as the judge and the base model see it (data/agreement.jsonl)."""

    id: str
    label_type: str
    chosen_score: float | None
    rejected_score: float | None
    mass: float  # the lesser of the two sides
    chosen_words: int
    rejected_words: int
    chosen_logprob: float | None  # under the base model, as in Answer
    rejected_logprob: float | None
    with_reference: bool
    judge: str  # the model that gave the scores


@dataclass(frozen=True)
class AttackResult:
    """An attempt to fool the judge beside the honest texts for the same question (data/attacks.jsonl)."""

    id: str  # labelled pair#attack
    attack: str  # its name in medqa/attacks/attacks.yaml
    kind: str  # key, verdict or padding
    text: str
    score: float | None
    plain_score: float | None  # of the poor answer that it pads or argues for; none where it uses no answer
    honest_score: float | None  # of the answer that people chose
    reference_score: float | None  # of the reference itself, given as an answer
