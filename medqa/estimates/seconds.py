"""The time of a stage that runs models, from its tokens and the speed of a matrix product.

A token costs 2 operations per parameter to read (Kaplan et al. 2020), and 2 more for the gradients that pass
through a frozen base to its adapter.
"""

from medqa.estimates import workload
from medqa.estimates.setting import TEMPLATE, TRAINING, Setting
from medqa.estimates.shapes import Shape

LIBRARIES_SECONDS, TRAINER_SECONDS = 5.0, 4.0  # to load the libraries; those of training besides
# On a processor, where weights wait in memory that is mapped.
LOADING_SECONDS, DEQUANTISING_SECONDS = 1.5, 6e-9  # per GB of files, per parameter of a quantised model
BATCHED, WRITING = 0.35, 0.1  # shares of a matrix product's speed: many tokens at once, one token per row
MOST_BATCHED = 2.0  # times BATCHED, which is that of a width of 128, for wide models
BENCHMARK_TOKENS = 4 * 200  # per question: its prompt with each of four options
LIKELIHOODS = 3  # texts per held-out question whose log-probability is measured


def stage_seconds(name: str, setting: Setting) -> float | None:
    """The time of a stage that runs models."""
    params, counts = setting.params, setting.counts
    base, judge = setting.shapes.get("base"), setting.shapes.get(params.evaluate.judge)
    if name == "judge":
        judge, answers = setting.shapes.get("judge"), counts["candidates"]
        if judge is None or answers is None:
            return None
        return _starting(setting, judge) + _judging(setting, judge, answers, "questions", params.generate.n)
    units = workload.units(name, params, counts)
    if base is None or units is None:
        return None
    start = _starting(setting, base)
    if name in TRAINING:
        start += TRAINER_SECONDS
    if name == "sft":
        return start + reading(setting, base, units * setting.row_tokens("sft"), 2)
    if name in ("dpo", "control"):  # two answers, and in the first epoch once more for the frozen copy
        tokens = 2 * units * setting.row_tokens("questions")
        return start + reading(setting, base, tokens, 2 + 1 / params.dpo.epochs)
    if name == "generate":
        length = params.generate.max_new_tokens
        return start + _writing(setting, base, units, "questions", length)
    if name == "benchmark":
        return start + reading(setting, base, units * BENCHMARK_TOKENS)
    if judge is None:
        return None
    start = _starting(setting, base, judge)
    if name == "evaluate":
        likelihoods = reading(setting, base, units * LIKELIHOODS * setting.row_tokens("held_out"))
        written = _writing(setting, base, units, "held_out", params.evaluate.max_new_tokens)
        return start + written + likelihoods + _judging(setting, judge, units, "held_out", 1)
    return start + _judging(setting, judge, units, "labelled", units / (counts["labelled"] or 1))


def _starting(setting: Setting, *models: Shape) -> float:
    """The time until models are loaded."""
    if setting.machine.gpu_gb:
        return LIBRARIES_SECONDS
    dequantised = sum(model.parameters for model in models if model.is_quantised)
    loading = LOADING_SECONDS * sum(model.stored_gb for model in models)
    return LIBRARIES_SECONDS + loading + DEQUANTISING_SECONDS * dequantised


def reading(setting: Setting, shape: Shape, tokens: float, passes: float = 1.0) -> float:
    """The time of forward passes; training makes 2 or 3 of each token."""
    share = BATCHED * min(MOST_BATCHED, (shape.width / 128) ** 0.25)
    return 2 * shape.parameters * tokens * passes / (share * setting.rate(setting.params.dtype))


def _writing(setting: Setting, shape: Shape, answers: float, file: str, max_new_tokens: int) -> float:
    """The time of answers to the questions of a file, with their prompts."""
    row = setting.tokens[file]
    written = answers * min(row.answer, max_new_tokens)
    seconds = 2 * shape.parameters * written / (WRITING * setting.rate(setting.params.dtype))
    return seconds + reading(setting, shape, answers * (row.question + TEMPLATE))


def _judging(setting: Setting, shape: Shape, answers: float, file: str, per_question: float) -> float:
    """The time of judging so many answers per question of a file, against its reference."""
    return reading(setting, shape, answers * setting.judged_tokens(file, per_question))
