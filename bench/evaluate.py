"""Evaluating held-out questions: answers, scores and likelihoods. Only the growth of the cost is measured."""

from collections.abc import Callable
from functools import partial

from bench import generate as bench_generate
from bench import judge as bench_judge
from bench import runs
from bench.workloads import Workload, take
from medqa import encoder, evaluate
from medqa.records import HeldOut
from medqa.runtime import sections

UNIT = "questions"


def contenders(workload: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """What loads both models and prepares a run over so many questions."""
    limit = workload.sampling.max_new_tokens
    params = sections.EvaluateParams(judge="judge", max_new_tokens=limit, bootstrap_samples=100)

    def prepare(rows: int) -> runs.Run:
        policy, grader = bench_generate.start_engine(workload), bench_judge.start_engine(workload)
        held_out = [
            HeldOut(row.id, "open", row.question, row.chosen, (), "", row.chosen, row.rejected)
            for row in take(workload.pairs, rows)
        ]

        def run() -> float:
            embed = partial(encoder.embed, workload.base)
            answers = evaluate.evaluate_model(
                policy, grader, embed, held_out, params, workload.judging, "judge"
            )
            return len(answers)

        return run

    return {runs.OURS: prepare}
