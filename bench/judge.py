"""Judging two candidates of a question by three criteria: one pass over a tree against a prompt at a time."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import runs
from bench.workloads import Workload, some
from medqa import engines, judge, model, prompts
from medqa.engines import Request
from medqa.records import Candidate

UNIT = "prompts"
ROWS = {"embedded": 64, "random": 8, "tiny": 2}  # questions, six prompts each
WRITTEN = 64  # tokens that a judge in words may take
PART = 8  # the plain loop judges one in so many prompts: all of them would take minutes
TARGETS = {"pipeline('decision')": 3.0, "plain loop": 10.0}
# Jinja drops a newline that ends a template.
TURN = "<|im_start|>user\n{{ state }}<|im_end|>\n<|im_start|>assistant{{ '\\n' }}"


def contenders(load: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """By name: what loads a judge and gives a run over so many questions."""

    def ours(rows: int) -> runs.Run:
        grade, asked = started(load), cases(load, rows)

        def run() -> float:
            judge.score(grade, asked, load.judging)
            return len(asked) * len(prompts.CRITERIA)

        return run

    def theirs(
        prepare: Callable[[Workload], Callable[[str], Any]], part: int = 1
    ) -> Callable[[int], runs.Run]:
        def prepared(rows: int) -> runs.Run:
            grade, asked = prepare(load), list(states(load, rows))[::part]
            grade(asked[0])
            return lambda: len([grade(state) for state in asked])

        return prepared

    return {runs.FAST: ours, "plain loop": theirs(writing, PART), "pipeline('decision')": theirs(deciding)}


def started(load: Workload) -> engines.Engine:
    """The engine of the pipeline, with its model loaded."""
    engine = engines.load(load.judge, None, load.dtype, load.compute, load.compute.judge_batch_size)
    judge.score(engine, cases(load, 1), load.judging)
    return engine


def writing(load: Workload) -> Callable[[str], str | None]:
    """A judge that writes, and is read by a regular expression: the digit, or nothing."""
    import torch

    net, tok = model.load_merged(load.judge, load.dtype), model.tokenizer(load.judge)

    def grade(state: str) -> str | None:
        text = tok.apply_chat_template(
            [{"role": "user", "content": state}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([tok(text, add_special_tokens=False).input_ids], device=net.device)
        out = net.generate(
            input_ids=ids, do_sample=False, max_new_tokens=WRITTEN, pad_token_id=tok.pad_token_id
        )
        found = re.match(r"\s*([1-5])", tok.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        return found[1] if found else None

    return grade


def deciding(load: Workload) -> Callable[[str], float]:
    """transformers' own pipeline for it: the expected label, from 0 to 1, by one pass a prompt."""
    from transformers import DecisionConfig, pipeline

    net, tok = model.load_merged(load.judge, load.dtype), model.tokenizer(load.judge)
    config = DecisionConfig(labels={"score": list(prompts.LABELS)}, chat_template=TURN)
    decide = pipeline("decision", model=net, tokenizer=tok, decision_config=config)
    question = {"grade": {"type": "score", "criteria": list(prompts.LABELS)}}
    return lambda state: (
        decide({"state": state, "questions": question})["grade"]["score"] / (len(prompts.LABELS) - 1)
    )


def check(load: Workload) -> str:
    """That scores are the pipeline's to 1e-5 in float32, and what the plain loop reads is the likeliest
    label.

    Raises AssertionError where one is not.
    """
    import dataclasses

    load, rows = dataclasses.replace(load, dtype="float32"), min(8, ROWS[load.name])
    asked, engine = list(states(load, rows)), started(load)
    requests = [Request(str(n), [{"role": "user", "content": state}]) for n, state in enumerate(asked)]
    results = dict(engine.label_probabilities(requests, prompts.LABELS))
    labels = [results[request.id] for request in requests]
    expected, decide, write = [judge.expected_label(row) for row in labels], deciding(load), writing(load)
    apart = max(abs(one - decide(state)) for one, state in zip(expected, asked, strict=True))
    assert apart < 1e-5, f"scores are {apart:.1e} apart from the pipeline's"
    assert max(expected) - min(expected) > 1e-3, "the scores are all alike: this shows nothing"
    # The scores of the files are these, weighted and rounded.
    told = judge.score(engine, cases(load, rows), load.judging)
    told = [getattr(row, name) for row in told.values() for name in prompts.CRITERIA]
    assert max(abs(one - other) for one, other in zip(expected, told, strict=True)) < 1e-5, (
        "not the engine's own scores"
    )
    read = 0
    for row, state in zip(labels, asked, strict=True):
        if digit := write(state):
            likeliest = prompts.LABELS[row.probabilities.index(max(row.probabilities))]
            assert digit == likeliest, f"the plain loop reads {digit}, the likeliest label is {likeliest}"
            read += 1
    return f"{len(asked)} scores at most {apart:.0e} apart; the plain loop's label the same in all {read} it could read"


def cases(load: Workload, rows: int) -> list[judge.Case]:
    """Question, reference and answer for both candidates of so many questions."""
    return [judge.Case(row.id, row.question, row.reference, row.text) for row in candidates(load, rows)]


def candidates(load: Workload, rows: int) -> Sequence[Candidate]:
    """Both candidates of so many questions."""
    return some(load.candidates, 2 * rows)


def states(load: Workload, rows: int) -> Iterator[str]:
    """The text of each prompt."""
    for case in cases(load, rows):
        texts = (case.question, case.reference, case.answer)
        shown = [judge.shorten(text, load.judging.max_chars) for text in texts]
        for messages in prompts.judge(load.judging.template, *shown).values():
            yield messages[0]["content"]
