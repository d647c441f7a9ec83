"""Stage `benchmark`: multiple-choice benchmarks by lm-eval, and which questions training repeats."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from medqa import jsonl
from medqa.benchmark import contamination, harness, questions, results
from medqa.records import BenchmarkAnswer, Example, Question
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(base: Path, policy: Path, sft: Path, preference: Path, answers: Path, metrics: Path) -> str:
    """Score the options of each question by the base, or by the adapter in the folder `policy` on it.

    `sft` and `preference` hold the prompts of training. Without a task the outputs are empty.
    """
    params = read_params()
    rows = _answer(params, base, policy, sft, preference) if params.benchmark.tasks else []
    jsonl.write(answers, rows)
    result = compute_metrics(params, answers)
    jsonl.write_metrics(metrics, result)
    accuracies = ", ".join(f"{task} {each['accuracy']:.3f}" for task, each in result["by"].items())
    return f"accuracy of {policy.name}: {accuracies}" if rows else "benchmark.tasks names no task"


def _answer(params: Params, base: Path, policy: Path, sft: Path, preference: Path) -> list[BenchmarkAnswer]:
    harness.require()
    section = params.benchmark
    rows = questions.read_all(section.tasks, section.sources, Path(params.corpus))
    rows = questions.draw(rows, section.limit, params.seed)
    repeats = contamination.repeating_rows(
        {row.id: row.prompts() for row in rows},
        partial(_training_prompts, sft, preference),
        params.data.near_duplicate,
    )
    model = harness.load(base, None if policy == base else policy, params.dtype, params.compute)
    return results.answers(rows, harness.option_logprobs(model, rows, section.chat_template), repeats)


def _training_prompts(sft: Path, preference: Path) -> Iterator[tuple[str, str]]:
    """The id and the prompt of each training row, with the file that it is in."""
    for example in jsonl.read(sft, Example):
        yield f"{sft.stem}:{example.id}", example.question
    for question in jsonl.read(preference, Question):
        yield f"{preference.stem}:{question.id}", question.question


def compute_metrics(params: Params, answers: Path) -> dict[str, Any]:
    """The metrics, from the answers."""
    rows = list(jsonl.read(answers, BenchmarkAnswer))
    return results.summary(rows, params.seed, params.benchmark.bootstrap_samples)


if __name__ == "__main__":
    stage.run(main)
