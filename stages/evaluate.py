"""Stage `evaluate`: a model's answers to the held-out questions, judged and measured."""

from functools import partial
from pathlib import Path
from typing import Any

from medqa import encoder, engines, evaluate, hub, jsonl, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(
    base: Path, policy: Path, held_out: Path, answers: Path, metrics: Path, judge_model: Path | None = None
) -> str:
    """Evaluate the policy: the base itself, or the adapter in the folder `policy` on it.

    Judged by `judge_model`, or by the model beside the base that `evaluate.judge` names.
    """
    params = read_params()
    compute = params.compute
    rows = jsonl.read_all(held_out, records.HeldOut)
    adapter = None if policy == base else policy
    # One model after the other: 8 GB do not hold both.
    with engines.load(base, adapter, params.dtype, compute, compute.generate_batch_size) as model:
        responses = evaluate.answer_questions(model, rows, params.evaluate)
    embed = partial(encoder.embed, base.parent / params.encoder)
    coverages = evaluate.measure_coverage(embed, rows, responses)
    judge_model = judge_model or base.parent / params.evaluate.judge
    with engines.load(judge_model, None, params.dtype, compute, compute.judge_batch_size) as grader:
        answered = evaluate.judge_responses(
            grader, rows, responses, coverages, params.judge, hub.describe(judge_model)
        )
    jsonl.write(answers, answered)
    result = compute_metrics(params, answers)
    jsonl.write_metrics(metrics, result)
    return ", ".join(f"{name} {result[name]:.3f}" for name in evaluate.HEADLINE if name in result)


def compute_metrics(params: Params, answers: Path) -> dict[str, Any]:
    """The metrics, from the answers."""
    rows = jsonl.read_all(answers, records.Answer)
    return evaluate.summary(rows, params.seed, params.evaluate.bootstrap_samples)


if __name__ == "__main__":
    stage.run(main)
