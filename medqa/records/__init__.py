"""Every row that passes between stages: frozen records, stored as JSON lines and sorted by id.

| file | record | written by |
|---|---|---|
| data/sft.jsonl | Example | data |
| data/questions.jsonl | Question | data |
| data/heldout.jsonl | HeldOut | data |
| data/labelled.jsonl | Labelled | data |
| data/audit.jsonl | RowAudit | data |
| data/quarantine.jsonl | Quarantined | data |
| data/provenance.jsonl | Provenance | data |
| models/judge/validation.jsonl | ValidationExample | models |
| data/candidates.jsonl | Candidate | generate |
| data/judged.jsonl | Judged: a Candidate with its Score | judge |
| data/pairs.jsonl | Pair | pairs |
| data/answers/NAME.jsonl | Answer, with its Score | evaluate |
| data/agreement.jsonl | JudgedPair | agreement |
| data/attacks.jsonl | AttackResult | agreement |
| data/benchmark/NAME.jsonl | BenchmarkAnswer | benchmark |

Records have modules of their own: a new field reruns only the stages that read or write that record.
"""

from medqa.records.agreement import AttackResult, JudgedPair
from medqa.records.answers import Answer
from medqa.records.audit import Provenance, Quarantined, RowAudit
from medqa.records.benchmark import BenchmarkAnswer
from medqa.records.candidates import Candidate
from medqa.records.data import KINDS, Example, HeldOut, Labelled, Question
from medqa.records.judged import Judged
from medqa.records.models import ValidationExample
from medqa.records.pairs import Pair
from medqa.records.scores import Score

__all__ = [
    "KINDS",
    "Answer",
    "AttackResult",
    "BenchmarkAnswer",
    "Candidate",
    "Example",
    "HeldOut",
    "Judged",
    "JudgedPair",
    "Labelled",
    "Pair",
    "Provenance",
    "Quarantined",
    "Question",
    "RowAudit",
    "Score",
    "ValidationExample",
]
