"""Stage `evaluate`: a model's answers to the held-out questions, judged and measured."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medqa import encoder, engines, evaluate, hub, jsonl, records
from medqa.runtime import folders, stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params
from medqa.spool import Spool


def main(
    base: Path, policy: Path, held_out: Path, answers: Path, metrics: Path, judge_model: Path | None = None
) -> str:
    """Evaluate the policy: the base itself, or the adapter in the folder `policy` on it.

    Judged by `judge_model`, or by the model beside the base that `evaluate.judge` names. An empty folder is
    the adapter of an arm that params.yaml switches off: it has no answers.
    """
    params = read_params()
    judge_model = judge_model or base.parent / params.evaluate.judge
    answered = [] if folders.is_empty(policy) else _answer(params, base, policy, held_out, judge_model)
    jsonl.write(answers, answered)
    result = compute_metrics(params, answers)
    jsonl.write_metrics(metrics, result)
    shown = [f"{name} {result[name]:.3f}" for name in evaluate.HEADLINE if name in result]
    return ", ".join(shown) if answered else f"{policy} is empty, so there is nothing to evaluate"


def _answer(
    params: Params, base: Path, policy: Path, held_out: Path, judge_model: Path
) -> Sequence[records.Answer]:
    compute = params.compute
    rows = jsonl.Rows(held_out, records.HeldOut)
    adapter = None if policy == base else policy
    # One model after the other: 8 GB do not hold both.
    with engines.load(base, adapter, params.dtype, compute, compute.generate_batch_size) as model:
        responses = evaluate.answer_questions(model, rows, params.evaluate)
    coverages = evaluate.measure_coverage(
        partial(encoder.embed, base.parent / params.encoder), rows, responses
    )
    with engines.load(judge_model, None, params.dtype, compute, compute.judge_batch_size) as grader:
        return evaluate.judge_responses(
            grader, rows, responses, coverages, params.judge, hub.describe(judge_model)
        )


def compute_metrics(params: Params, answers: Path) -> dict[str, Any]:
    """The metrics, from the answers."""
    rows = Spool(jsonl.read(answers, records.Answer, without=("text", "thinking")))
    return evaluate.summary(rows, params.seed, params.evaluate.bootstrap_samples)


if __name__ == "__main__":
    stage.run(main)
