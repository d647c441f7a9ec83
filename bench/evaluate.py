"""Evaluating held-out questions: answers, scores and the likelihood of given answers. Only its growth is measured."""

from collections.abc import Callable

from bench import judge, runs
from bench.generate import started
from bench.workloads import Workload, some
from medqa import evaluate
from medqa import judge as judging
from medqa.records import HeldOut

UNIT = "questions"


def contenders(load: Workload) -> dict[str, Callable[[int], runs.Run]]:
    """What loads both models and gives a run over so many questions."""
    params = evaluate.Params(judge="judge", max_new_tokens=load.sampling.max_new_tokens, bootstrap_samples=100)

    def prepare(rows: int) -> runs.Run:
        write, grade = started(load), judge.started(load)
        held_out = [
            HeldOut(row.id, "open", row.question, row.chosen, (), "", row.chosen, row.rejected)
            for row in some(load.pairs, rows)
        ]

        def run() -> float:
            score = lambda cases: judging.score(grade, cases, load.judging)  # noqa: E731
            return len(evaluate.evaluate_model(write, score, held_out, params, "judge"))

        return run

    return {runs.FAST: prepare}
