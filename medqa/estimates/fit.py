"""Whether a run fits this machine: the refusal of one that cannot, and warnings of one that may not."""

from collections.abc import Iterator, Sequence

from medqa.estimates.machine import Machine
from medqa.estimates.table import MEMORY_FACTOR, Cost, size
from medqa.runtime.sections import Params

SPARE = 1.02  # of a measured peak


def refusal(costs: Sequence[Cost], machine: Machine, params: Params) -> str:
    """Why a run cannot fit, in one sentence: stage, need, what there is, what lowers it; else empty.

    A calculated peak counts with the lower end of its uncertainty, so that no run is refused that would fit.
    """
    for cost in costs:
        factor = 1 / MEMORY_FACTOR if cost.basis == "calculated" else SPARE
        for resource, need, limit in _peaks(cost, machine):
            if need * factor > limit:
                return (
                    f"stage {cost.stage} needs {size(need)} of {resource} ({cost.basis}), and this machine "
                    f"has {size(limit)}; {remedy(cost.stage, params)}"
                )
    needed = sum(cost.disk_gb or 0.0 for cost in costs)
    if needed > machine.disk_gb:
        largest = max(costs, key=lambda cost: cost.disk_gb or 0.0)
        return (
            f"the run needs {size(needed)} of disk, most of it for stage {largest.stage}, and "
            f"{size(machine.disk_gb)} are free; free disk, or take a smaller model in `models` or smaller "
            "data.max_* of params.yaml"
        )
    return ""


def warnings(costs: Sequence[Cost], machine: Machine, params: Params) -> Iterator[str]:
    """A sentence per stage that may run out of memory, for all that can be said."""
    for cost in costs:
        for resource, need, limit in _peaks(cost, machine):
            if need > limit:
                yield (
                    f"stage {cost.stage} may need {size(need)} of {resource}, and this machine has "
                    f"{size(limit)}: if memory runs out, {remedy(cost.stage, params)}"
                )


def _peaks(cost: Cost, machine: Machine) -> Iterator[tuple[str, float, float]]:
    """What a stage needs at its peak, and what there is, by resource."""
    yield "memory", cost.memory_gb or 0.0, machine.memory_gb
    if machine.gpu_gb:
        yield "GPU memory", cost.gpu_gb or 0.0, machine.gpu_gb


def remedy(stage: str, params: Params) -> str:
    """Which parameter of params.yaml lowers the memory of a stage, with its value now."""
    name, _, item = stage.partition("@")
    if name in ("sft", "dpo", "control"):
        return _training_remedy("sft" if name == "sft" else "dpo", params)
    generating, judging = params.compute.generate_batch_size, params.compute.judge_batch_size
    judge = "judge" if name == "judge" else params.evaluate.judge
    if name == "generate" and generating > 1:
        return f"lower compute.generate_batch_size, which is {generating}, or take a smaller models.base"
    if name in ("judge", "evaluate", "agreement"):
        lower = f"lower compute.judge_batch_size, which is {judging}, or " if judging > 1 else ""
        return f"{lower}take a smaller models.{judge}"
    return f"take a smaller models.{item or 'base'}"


def _training_remedy(key: str, params: Params) -> str:
    section = params.sft if key == "sft" else params.dpo
    if section.micro_batch_size > 1:
        return f"lower {key}.micro_batch_size, which is {section.micro_batch_size}"
    if not section.activation_checkpointing:
        return f"set {key}.activation_checkpointing: true"
    if section.dequantised:
        return f"set {key}.dequantised: false"
    return f"lower {key}.max_length, which is {section.max_length}, or take a smaller models.base"
