"""lm-eval on a model of this project: the log-probability of each option after each question."""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.benchmark.questions import BenchmarkQuestion
from medqa.runtime.errors import UserError
from medqa.runtime.sections import ComputeParams

if TYPE_CHECKING:
    from medqa.benchmark.policy import Policy


def require() -> None:
    """Raises UserError where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError(
            "benchmark.tasks needs lm-eval: pip install -c constraints.txt -e '.[benchmark]', "
            "or set benchmark.tasks to []"
        )


def load(base: Path, adapter: Path | None, dtype: str, compute: ComputeParams) -> "Policy":
    """The base, dequantised, with the adapter added to its weights if there is one, for lm-eval."""
    from medqa import model
    from medqa.benchmark.policy import Policy
    from medqa.runtime import hashing, row_cache

    folders = [base, *([adapter] if adapter else [])]
    content = [hashing.dvc_hash(folder) for folder in folders]
    libraries = [version(library) for library in ("torch", "transformers", "gptqmodel", "lm-eval")]
    identity = [libraries, content, dtype, model.device().split(":")[0]]
    merged = model.load_merged(base, dtype, adapter)
    name = "+".join(content), " + ".join(folder.name for folder in folders)
    return Policy(merged, model.tokenizer(base), row_cache.open_cache(compute), name, identity)


def option_logprobs(
    policy: "Policy", questions: Sequence[BenchmarkQuestion], chat_template: bool
) -> dict[str, tuple[float, ...]]:
    """The log-probability of each option in nats, by the question's id, without examples before it.

    A prompt that is longer than the model's context loses its beginning, as always in lm-eval.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    by_task: dict[str, list[BenchmarkQuestion]] = {}
    for question in questions:
        by_task.setdefault(question.task.name, []).append(question)
    loaded = TaskManager(include_defaults=False).load([_definition(rows) for rows in by_task.values()])
    result = evaluate(policy, loaded, bootstrap_iters=0, log_samples=True, apply_chat_template=chat_template)
    return {
        rows[sample["doc_id"]].id: tuple(round(logprob, 6) for logprob, _ in sample["filtered_resps"])
        for name, rows in by_task.items()
        for sample in result["samples"][name]
    }


def _definition(questions: Sequence[BenchmarkQuestion]) -> dict[str, Any]:
    """lm-eval's configuration of the questions' task, with the rows from memory."""
    from datasets import Dataset

    rows = Dataset.from_list([question.row for question in questions])
    return questions[0].task.definition | {"custom_dataset": lambda **_: {"test": rows}}
