"""What a judge trained here reads of a corrupted answer: the prompts of its method, each with its label."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medqa import prompts
from medqa.miniature.corrupted_answers import JudgeExample
from medqa.prompts import Messages
from medqa.text import distinct_sentences

Spans = tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt of the judge with its label.

    A tiny model learns far earlier to compare if it also predicts the compared text, and labels the points in
    it: `spans`, by first character, character after the last, and whether the other text has the point.
    """

    messages: Messages
    label: str
    compared: str
    spans: Spans


def labelled_prompts(
    examples: Sequence[JudgeExample], template: str, seed: int
) -> Iterator[list[LabelledPrompt]]:
    """Groups of prompts that differ only at their end: one per example for grades, two for points."""
    rng = random.Random(f"statements {seed}")
    for example in examples:
        if prompts.method(template) == "grades":
            yield _grades(example, template)
        else:
            yield _points(example, template)
            yield _sentences(example, template, rng)


def _grades(example: JudgeExample, template: str) -> list[LabelledPrompt]:
    criteria = prompts.judge(template, example.question, example.reference, example.candidate)
    return [
        LabelledPrompt(messages, prompts.LABELS[example.labels[name]], example.candidate, example.spans)
        for name, messages in criteria.items()
    ]


def _points(example: JudgeExample, template: str) -> list[LabelledPrompt]:
    """Whether the answer says each point of the reference."""
    stated = {example.candidate[start:stop] for start, stop, _ in example.spans}
    labels = prompts.labels(template)
    return [
        LabelledPrompt(
            prompts.statement(template, "point", example.question, example.candidate, point),
            labels[point in stated],
            prompts.escape_control_tokens(point),
            ((0, len(point), point in stated),),
        )
        for point in example.points
    ]


def _sentences(example: JudgeExample, template: str, rng: random.Random) -> list[LabelledPrompt]:
    """Whether the reference says each sentence of the answer.

    The label of a sentence that is right in part is drawn: yes with the share of its points that are right.
    """
    labels, result = prompts.labels(template), []
    stated = {example.candidate[start:stop]: right for start, stop, right in example.spans}
    for sentence in distinct_sentences(example.candidate):
        text = prompts.escape_control_tokens(sentence)
        spans = tuple(
            sorted(
                (*match.span(), right)
                for point, right in stated.items()
                for match in re.finditer(re.escape(point), text)
            )
        )
        share = sum(right for *_, right in spans) / max(1, len(spans))
        messages = prompts.statement(template, "sentence", example.question, example.reference, sentence)
        result.append(LabelledPrompt(messages, labels[rng.random() < share], text, spans))
    return result
