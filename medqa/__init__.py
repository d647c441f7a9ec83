"""Fine-tuning of a medical question answerer with AI feedback. Its main functions are imported when used."""

from collections.abc import Callable
from importlib import import_module

# The names of the project's first description, and where they are defined.
FUNCTIONS = {
    "load_medical_dataset": "medqa.data:load_medical_data",
    "generate_answers_finetuned": "medqa.generate:generate_answers",
    "rank_answers": "medqa.judge:rank_answers",
    "evaluate_finetuned_model": "medqa.evaluate:evaluate_model",
}


def __getattr__(name: str) -> Callable[..., object]:
    """One of the functions (PEP 562): importing medqa imports nothing else."""
    if name not in FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, function = FUNCTIONS[name].partition(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *FUNCTIONS])
