"""Evaluating held-out questions: answers, scores and the likelihood of given answers. Only its growth is
measured.
"""

from collections.abc import Callable

from bench import judge as bench_judge
from bench import runs
from bench.generate import started
from bench.workloads import Workload, some
from medqa import evaluate
from medqa.records import HeldOut
from medqa.runtime import sections

UNIT = "questions"


def contenders(load: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """What loads both models and gives a run over so many questions."""
    params = sections.EvaluateParams(
        judge="judge", max_new_tokens=load.sampling.max_new_tokens, bootstrap_samples=100
    )

    def prepare(rows: int) -> runs.Run:
        write, grade = started(load), bench_judge.started(load)
        held_out = [
            HeldOut(row.id, "open", row.question, row.chosen, (), "", row.chosen, row.rejected)
            for row in some(load.pairs, rows)
        ]

        def run() -> float:
            return len(evaluate.evaluate_model(write, grade, held_out, params, load.judging, "judge"))

        return run

    return {runs.FAST: prepare}
