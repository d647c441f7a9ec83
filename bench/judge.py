"""Judging two candidates per question by three criteria: one prefix tree against one prompt at a time."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from bench import peers, runs
from bench.workloads import Workload, take
from medqa import engines, judge, model, prompts
from medqa.engines import Request

UNIT = "prompts"
ROWS = {"embedded": 64, "random": 8, "tiny": 2}  # questions, six prompts each
MAX_NEW_TOKENS = 64  # of a judge that answers in words
PART = 8  # the plain loop judges one in so many prompts: all prompts would take minutes
TARGETS = {"pipeline('decision')": 3.0, "plain loop": 10.0}
# Jinja drops a newline that ends a template.
TURN = "<|im_start|>user\n{{ state }}<|im_end|>\n<|im_start|>assistant{{ '\\n' }}"


def contenders(workload: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what loads a judge and prepares a run over so many questions."""

    def ours(rows: int) -> runs.Run:
        engine, judged = start_engine(workload), cases(workload, rows)

        def run() -> float:
            judge.score(engine, judged, workload.judging)
            return len(judged) * len(prompts.CRITERIA)

        return run

    def theirs(load: Callable[[Workload], Callable[[str], Any]], part: int = 1) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            grade, texts = load(workload), list(prompt_texts(workload, rows))[::part]
            grade(texts[0])
            return lambda: len([grade(text) for text in texts])

        return prepare

    return {runs.OURS: ours, "plain loop": theirs(writing, PART), "pipeline('decision')": theirs(deciding)}


def start_engine(workload: Workload) -> engines.Engine:
    """The engine of the pipeline, with its model loaded."""
    batch_size = workload.compute.judge_batch_size
    engine = engines.load(workload.judge, None, workload.dtype, workload.compute, batch_size)
    judge.score(engine, cases(workload, 1), workload.judging)
    return engine


def writing(workload: Workload) -> Callable[[str], str | None]:
    """A judge that answers in words; a regular expression reads the digit, or None."""
    net, tokenizer = model.load_merged(workload.judge, workload.dtype), model.tokenizer(workload.judge)

    def grade(text: str) -> str | None:
        messages = [{"role": "user", "content": text}]
        ids = peers.write(net, tokenizer, messages, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        match = re.match(r"\s*([1-5])", tokenizer.decode(ids, skip_special_tokens=True))
        return match[1] if match else None

    return grade


def deciding(workload: Workload) -> Callable[[str], float]:
    """transformers' own pipeline for this: the expected label, from 0 to 1, by one pass per prompt."""
    from transformers import DecisionConfig, pipeline

    net, tokenizer = model.load_merged(workload.judge, workload.dtype), model.tokenizer(workload.judge)
    config = DecisionConfig(labels={"score": list(prompts.LABELS)}, chat_template=TURN)
    decide = pipeline("decision", model=net, tokenizer=tokenizer, decision_config=config)
    question = {"grade": {"type": "score", "criteria": list(prompts.LABELS)}}
    top = len(prompts.LABELS) - 1
    return lambda text: decide({"state": text, "questions": question})["grade"]["score"] / top


def check(workload: Workload) -> str:
    """Check that all contenders give the same scores in float32, or the likeliest label.

    Raises AssertionError if not.
    """
    workload, rows = dataclasses.replace(workload, dtype="float32"), min(8, ROWS[workload.name])
    texts, engine = list(prompt_texts(workload, rows)), start_engine(workload)
    requests = [Request(str(n), [{"role": "user", "content": text}]) for n, text in enumerate(texts)]
    results = dict(engine.label_probabilities(requests, prompts.LABELS))
    labels = [results[request.id] for request in requests]
    expected, decide, write = (
        [judge.expected_label(row) for row in labels],
        deciding(workload),
        writing(workload),
    )
    difference = max(abs(score - decide(text)) for score, text in zip(expected, texts, strict=True))
    assert difference < 1e-5, f"scores are {difference:.1e} apart from the pipeline's"
    assert max(expected) - min(expected) > 1e-3, "the scores are all alike: this shows nothing"
    # The scores in the pipeline's files are these, weighted and rounded.
    scores = judge.score(engine, cases(workload, rows), workload.judging)
    by_criterion = [getattr(score, name) for score in scores.values() for name in prompts.CRITERIA]
    differences = (abs(left - right) for left, right in zip(expected, by_criterion, strict=True))
    assert max(differences) < 1e-5, "not the engine's own scores"
    read = 0
    for row, text in zip(labels, texts, strict=True):
        if digit := write(text):
            likeliest = prompts.LABELS[row.probabilities.index(max(row.probabilities))]
            assert digit == likeliest, f"the plain loop reads {digit}, the likeliest label is {likeliest}"
            read += 1
    return (
        f"{len(texts)} scores at most {difference:.0e} apart; "
        f"the plain loop's label the same in all {read} it could read"
    )


def cases(workload: Workload, rows: int) -> list[judge.Case]:
    """Question, reference and answer for both candidates of so many questions."""
    rows_of_pairs = take(workload.candidates, 2 * rows)
    return [judge.Case(row.id, row.question, row.reference, row.text) for row in rows_of_pairs]


def prompt_texts(workload: Workload, rows: int) -> Iterator[str]:
    """The text of each prompt."""
    for case in cases(workload, rows):
        texts = (case.question, case.reference, case.answer)
        shortened = [judge.shorten(text, workload.judging.max_chars) for text in texts]
        for messages in prompts.judge(workload.judging.template, *shortened).values():
            yield messages[0]["content"]
