"""What all costs of a run depend on: parameters, rows and their lengths, models, and the machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medqa.estimates.machine import Machine
from medqa.estimates.shapes import Shape
from medqa.estimates.workload import CHARS_PER_TOKEN, Counts, RowTokens
from medqa.runtime.sections import Params

TEMPLATE = 20  # tokens of a prompt besides the question
POINTS, POINT_TEMPLATE, SENTENCE = 3, 8, 16  # per reference; tokens of a prompt, tokens of a sentence
TRAINING = ("sft", "dpo", "control")  # stages
JUDGED = {"judge": "questions", "evaluate": "held_out", "agreement": "labelled"}  # the file, by stage

Rate = Callable[[str], float]  # operations per second of a matrix product in a dtype


@dataclass(frozen=True)
class Setting:
    """What all costs of a run depend on."""

    params: Params
    counts: Counts
    tokens: Mapping[str, RowTokens]  # by file
    shapes: Mapping[str, Shape | None]  # by the name of the model
    machine: Machine
    rate: Rate

    def row_tokens(self, file: str) -> float:
        """Mean tokens of a question of a file with an answer, up to the limit of training."""
        section = self.params.sft if file == "sft" else self.params.dpo
        row = self.tokens[file]
        return min(row.question + row.answer + TEMPLATE, section.max_length)

    def judged_tokens(self, file: str, per_question: float = 1.0) -> float:
        """Mean tokens that the judge reads per answer; answers to a question share question and reference.

        By `points` it reads each point of the reference with each sentence of the answer.
        """
        row, limit = self.tokens[file], self.params.judge.max_chars / CHARS_PER_TOKEN
        text = min(row.answer, limit)
        if self.params.judge.method == "points":
            sentences = max(1.0, text / SENTENCE)
            return sentences * text + POINTS * (text + sentences * POINT_TEMPLATE)
        return (row.question + text + TEMPLATE) / per_question + text + TEMPLATE
