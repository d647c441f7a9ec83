"""The method `grades`: the judge grades the whole answer from 1 to 5, once per criterion.

The criterion is the expected grade, as in G-Eval (Liu et al. 2023).
"""

from collections.abc import Mapping

from medqa import prompts
from medqa.engines import Labels
from medqa.judge.cases import Case, Questions, expected_label, shorten, truncated_chars
from medqa.runtime.sections import JudgeParams


def questions(case: Case, params: JudgeParams) -> Questions:
    """One question per criterion."""
    texts = (case.question, case.reference, case.answer)
    messages = prompts.judge(params.template, *(shorten(text, params.max_chars) for text in texts))
    return Questions(messages, sum(truncated_chars(text, params.max_chars) for text in texts))


def criteria(labels: Mapping[str, Labels]) -> dict[str, float]:
    """The expected grade of each criterion, from 0 to 1."""
    return {name: expected_label(each) for name, each in labels.items()}
