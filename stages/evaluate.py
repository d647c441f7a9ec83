"""Stage `evaluate`: a model's answers to the held-out questions, judged and measured."""

from pathlib import Path
from typing import Any

from medqa import engines, evaluate, hub, judge, params, records, stage


def main(
    base: Path, policy: Path, held_out: Path, answers: Path, metrics: Path, judge_model: Path | None = None
) -> str:
    """Evaluate the policy: the base itself, or the adapter in the folder `policy` on it.

    Judged by `judge_model`, or by the model beside the base that `evaluate.judge` names.
    """
    given = params.read()
    judge_model = judge_model or base.parent / given["evaluate"].judge
    compute = given["compute"]
    rows = records.read_some(held_out, records.HeldOut)

    def score(cases: list[judge.Case]) -> list[records.Score]:
        engine.free()  # 8 GB do not hold both models
        with stage.bar("judge", 3 * len(cases)) as bar:
            grader = engines.load(judge_model, None, given["dtype"], compute, compute.judge_batch_size, bar.update)
            return judge.score(grader, cases, given["judge"])

    with stage.bar("answer", 4 * len(rows)) as bar:  # each is answered, and three texts are read
        adapter = None if policy == base else policy
        engine = engines.load(base, adapter, given["dtype"], compute, compute.generate_batch_size, bar.update)
        answered = evaluate.evaluate_model(engine, score, rows, given["evaluate"], hub.described(judge_model))
    records.write(answers, answered)
    result = measured(given, answers)
    records.write_metrics(metrics, result)
    return ", ".join(f"{name} {result[name]:.3f}" for name in evaluate.HEADLINE if name in result)


def measured(given: dict[str, Any], answers: Path) -> dict[str, Any]:
    """The metrics, from the answers."""
    rows = records.read_some(answers, records.Answer)
    return evaluate.summary(rows, given["seed"], given["evaluate"].bootstrap_samples)


if __name__ == "__main__":
    stage.run(main)
