"""Costs of a stage that never ran here: from the shapes of its models and the speed of a matrix product.

A token costs 2 operations per parameter to read (Kaplan et al. 2020), and 2 more for the gradients that pass
through a frozen base to its adapter. Rows are as long as those of the last run on the same source.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medqa.estimates import workload
from medqa.estimates.machine import Machine
from medqa.estimates.shapes import BITS, GB, Shape, hub_snapshot
from medqa.estimates.table import Cost
from medqa.estimates.workload import ATTACKS, CHARS_PER_TOKEN, Counts, RowTokens
from medqa.runtime.model_sections import AnySource
from medqa.runtime.model_sources import (
    GgufModel,
    HubModel,
    ScratchModel,
    TunedEncoder,
    TunedJudge,
    WheelEncoder,
)
from medqa.runtime.sections import Params, TrainingParams

START_SECONDS, TRAINER_SECONDS = 5.0, 4.0  # libraries; those of training besides
# On a processor, where weights wait in memory that is mapped.
LOADING_SECONDS, DEQUANTISING_SECONDS = 1.5, 6e-9  # per GB of files, per parameter of a quantised model
# Seconds of stages without a model.
LIGHT = {"check": 0.5, "data": 2.0, "pairs": 1.0, "compare": 3.0, "summary": 0.5, "report": 2.0}
LIGHT_GB, LIBRARIES_GB, GPU_CONTEXT_GB = 0.1, 0.51, 0.6
RETAINED_GB = 0.1  # by the allocator, per further model that a stage loads
BATCHED, WRITING = 0.35, 0.1  # shares of a matrix product's speed: many tokens at once, one token per row
MOST_BATCHED = 2.0  # times BATCHED, which is that of a width of 128, for wide models
HASHING_SECONDS = 2.0  # per GB of files; how long the network takes is not known
QUANTISING_SECONDS = 1.3e-6  # per parameter: 180 s for 135 million on two cores
LOGIT_ROWS = 256  # whose logits are in memory at once
BENCHMARK_TOKENS = 4 * 200  # per question: its prompt with each of four options
TEMPLATE = 20  # tokens of a prompt besides the question
POINTS, POINT_TEMPLATE, SENTENCE = 3, 8, 16  # per reference; tokens of a prompt, tokens of a sentence
LONGEST = 2.0  # times the mean length, that of the longest rows
LIKELIHOODS = 3  # texts per held-out question whose log-probability is measured

JUDGED = {"judge": "questions", "evaluate": "held_out", "agreement": "labelled"}  # the file, by stage

Rate = Callable[[str], float]  # operations per second of a matrix product in a dtype


@dataclass(frozen=True)
class Setting:
    """What all costs of a run depend on."""

    params: Params
    counts: Counts
    tokens: Mapping[str, RowTokens]  # by file
    shapes: Mapping[str, Shape | None]  # by the name of the model
    machine: Machine
    rate: Rate

    def start_seconds(self, *models: Shape) -> float:
        """The time until models are loaded."""
        if self.machine.gpu_gb:
            return START_SECONDS
        dequantised = sum(model.parameters for model in models if model.is_quantised)
        loading = LOADING_SECONDS * sum(model.stored_gb for model in models)
        return START_SECONDS + loading + DEQUANTISING_SECONDS * dequantised

    def reading_seconds(self, shape: Shape, tokens: float, passes: float = 1.0) -> float:
        """The time of forward passes; training makes 2 or 3 of each token."""
        share = BATCHED * min(MOST_BATCHED, (shape.width / 128) ** 0.25)
        return 2 * shape.parameters * tokens * passes / (share * self.rate(self.params.dtype))

    def writing_seconds(self, shape: Shape, answers: float, file: str, max_new_tokens: int) -> float:
        """The time of answers to the questions of a file, with their prompts."""
        row = self.tokens[file]
        written = answers * min(row.answer, max_new_tokens)
        seconds = 2 * shape.parameters * written / (WRITING * self.rate(self.params.dtype))
        return seconds + self.reading_seconds(shape, answers * (row.question + TEMPLATE))

    def judging_seconds(self, shape: Shape, answers: float, file: str, per_question: float) -> float:
        """The time of judging so many answers per question of a file, against its reference."""
        return self.reading_seconds(shape, answers * self.judged_tokens(file, per_question))

    def judged_tokens(self, file: str, per_question: float = 1.0) -> float:
        """Mean tokens that the judge reads per answer; answers to a question share question and reference.

        By `points` it reads each point of the reference with each sentence of the answer.
        """
        row, limit = self.tokens[file], self.params.judge.max_chars / CHARS_PER_TOKEN
        text = min(row.answer, limit)
        if self.params.judge.method == "points":
            sentences = max(1.0, text / SENTENCE)
            return sentences * text + POINTS * (text + sentences * POINT_TEMPLATE)
        return (row.question + text + TEMPLATE) / per_question + text + TEMPLATE


def calculate(stage: str, setting: Setting) -> Cost:
    """The cost of a stage; what its models and rows do not tell is None."""
    name, _, item = stage.partition("@")
    if workload.is_off(stage, setting.params):
        return Cost(stage, 0.0, LIGHT_GB, 0.0, 0.0, 0.0, "off")
    if name in LIGHT:
        is_remote = name == "data" and any(
            section.source == "hub" for section in (setting.params.data.sft, setting.params.data.preference)
        )
        seconds, size = (None, None) if is_remote else (LIGHT[name], 0.0)
        return Cost(stage, seconds, LIGHT_GB, 0.0, size, size, "unknown" if is_remote else "calculated")
    if name == "models":
        return _model(stage, item, setting)
    seconds, gb = _seconds(name, setting), _memory_gb(name, setting)
    on_gpu = setting.machine.gpu_gb > 0
    memory = gb if gb is None or not on_gpu else LIBRARIES_GB * 3 + weights_gb(name, setting)
    compute = setting.params.compute
    if memory is not None and compute.cluster == "local":  # each process has the model
        memory *= compute.processes
    gpu = (gb - LIBRARIES_GB + GPU_CONTEXT_GB if gb is not None else None) if on_gpu else 0.0
    basis = "unknown" if seconds is None and gb is None else "calculated"
    return Cost(stage, seconds, memory, gpu, _disk_gb(name, setting), 0.0, basis)


def _model(stage: str, name: str, setting: Setting) -> Cost:
    """The cost of a model directory: what is downloaded, quantised or trained."""
    source, shape = setting.params.models.sources()[name], setting.shapes.get(name)
    has_download = _has_download(source)
    if shape is None:
        return Cost(stage, None, None, 0.0, None, None if has_download else 0.0, "unknown")
    seconds, memory = START_SECONDS, LIBRARIES_GB
    if isinstance(source, GgufModel) and source.quantise:
        seconds += QUANTISING_SECONDS * shape.parameters
    if isinstance(source, TunedJudge | ScratchModel):
        tokens = source.steps * source.batch_size * source.max_length / 2
        passes = 4 if isinstance(source, TunedJudge) else 3  # three labels per answer share its text
        seconds += setting.reading_seconds(shape, tokens, passes)
        memory += _activations_gb(shape, source.batch_size * source.max_length, 32, False)
    if isinstance(source, HubModel):
        seconds += HASHING_SECONDS * shape.stored_gb
    else:
        memory += 2 * shape.weights_gb("float32")
    download = shape.stored_gb if has_download else 0.0
    disk = download + (0.0 if isinstance(source, HubModel) else 2 * shape.weights_gb("bfloat16"))
    return Cost(stage, seconds, memory, 0.0, disk, download, "calculated")


def _has_download(source: AnySource) -> bool:
    """Whether a model, or what it starts from, comes over the network and is not here yet."""
    start = source.start if isinstance(source, TunedJudge | TunedEncoder) else source
    match start:
        case HubModel():
            return not hub_snapshot(start).is_dir()
        case GgufModel():
            return "://" in start.file
        case _:
            return isinstance(start, WheelEncoder)


def _seconds(name: str, setting: Setting) -> float | None:
    """The time of a stage that runs models."""
    params, counts = setting.params, setting.counts
    base, judge = setting.shapes.get("base"), setting.shapes.get(params.evaluate.judge)
    if name == "judge":
        judge, answers = setting.shapes.get("judge"), counts["candidates"]
        if judge is None or answers is None:
            return None
        return setting.start_seconds(judge) + setting.judging_seconds(
            judge, answers, "questions", params.generate.n
        )
    units = workload.units(name, params, counts)
    if base is None or units is None:
        return None
    start = setting.start_seconds(base)
    if name in ("sft", "dpo", "control"):
        start += TRAINER_SECONDS
    if name == "sft":
        return start + setting.reading_seconds(base, units * _row_tokens(setting, "sft"), 2)
    if name in ("dpo", "control"):  # two answers, and in the first epoch once more for the frozen copy
        tokens = 2 * units * _row_tokens(setting, "questions")
        return start + setting.reading_seconds(base, tokens, 2 + 1 / params.dpo.epochs)
    if name == "generate":
        length = params.generate.max_new_tokens
        return start + setting.writing_seconds(base, units, "questions", length)
    if name == "benchmark":
        return start + setting.reading_seconds(base, units * BENCHMARK_TOKENS)
    if judge is None:
        return None
    start = setting.start_seconds(base, judge)
    if name == "evaluate":
        likelihoods = setting.reading_seconds(base, units * LIKELIHOODS * _row_tokens(setting, "held_out"))
        written = setting.writing_seconds(base, units, "held_out", params.evaluate.max_new_tokens)
        return start + written + likelihoods + setting.judging_seconds(judge, units, "held_out", 1)
    return start + setting.judging_seconds(judge, units, "labelled", units / (counts["labelled"] or 1))


def _row_tokens(setting: Setting, file: str) -> float:
    """Mean tokens of a question of a file with an answer, up to the limit of training."""
    section = setting.params.sft if file == "sft" else setting.params.dpo
    row = setting.tokens[file]
    return min(row.question + row.answer + TEMPLATE, section.max_length)


def _memory_gb(name: str, setting: Setting) -> float | None:
    """The peak of a stage that runs models, one after the other, without a GPU."""
    params, shapes = setting.params, setting.shapes
    base = shapes.get("base")
    judge = shapes.get("judge" if name == "judge" else params.evaluate.judge)
    peaks: list[float | None] = []
    if name in ("sft", "dpo", "control"):
        peaks.append(_training_gb(base, setting, "sft" if name == "sft" else "dpo") if base else None)
    if name in ("generate", "evaluate"):
        length = (params.generate if name == "generate" else params.evaluate).max_new_tokens
        tokens = params.compute.generate_batch_size * 2 * length
        peaks.append(base.stored_gb + _reading_gb(base, tokens, params.dtype) if base else None)
    if name == "benchmark":
        peaks.append(_reading_gb(base, BENCHMARK_TOKENS, params.dtype) if base else None)
    if name in JUDGED:
        judged = params.compute.judge_batch_size * setting.judged_tokens(JUDGED[name])
        peaks.append(_reading_gb(judge, judged, params.dtype) if judge else None)
    known = [peak for peak in peaks if peak is not None]
    further = 2 * RETAINED_GB if name in ("evaluate", "agreement") else 0.0  # judge and encoder
    return LIBRARIES_GB + further + max(known) if len(known) == len(peaks) else None


def weights_gb(name: str, setting: Setting) -> float:
    """The weights of the larger model of a stage in memory."""
    shapes = [setting.shapes.get("base"), setting.shapes.get(setting.params.evaluate.judge)]
    used = shapes[:1] if name in ("sft", "dpo", "control", "generate", "benchmark") else shapes
    return max((shape.weights_gb(setting.params.dtype) for shape in used if shape), default=0.0)


def _training_gb(shape: Shape, setting: Setting, name: str) -> float:
    section: TrainingParams = setting.params.sft if name == "sft" else setting.params.dpo
    bits = BITS[setting.params.dtype]
    mean = _row_tokens(setting, "sft" if name == "sft" else "questions")
    length = min(section.max_length, LONGEST * mean)
    tokens = section.micro_batch_size * length * (1 if name == "sft" else 2)
    weights = shape.parameters * (bits if section.dequantised else bits + 4) / 8 / GB
    logits = (LOGIT_ROWS if name == "sft" else tokens / 2) * shape.vocabulary * 4 * 2 / GB
    step = logits + _activations_gb(shape, tokens, bits, section.activation_checkpointing)
    loading = shape.stored_gb if section.dequantised and shape.is_quantised else 0.0
    return weights + max(step, loading)


def _activations_gb(shape: Shape, tokens: float, bits: int, checkpointing: bool) -> float:
    """What the backward pass needs: all of each layer, or with checkpointing its input and one layer."""
    per_layer = 10 * shape.width + 4 * shape.mlp
    numbers = shape.layers * shape.width + per_layer if checkpointing else shape.layers * per_layer
    return tokens * numbers * bits / 8 / GB


def _reading_gb(shape: Shape, tokens: float, dtype: str) -> float:
    """Weights, the KV cache of these tokens, one layer's activations, and the logits of a few rows."""
    cache = tokens * shape.layers * shape.cache_width * 2
    live = tokens * (4 * shape.width + 2 * shape.mlp)
    return (
        shape.weights_gb(dtype)
        + (cache + live) * BITS[dtype] / 8 / GB
        + LOGIT_ROWS * shape.vocabulary * 4 / GB
    )


def _disk_gb(name: str, setting: Setting) -> float:
    """Outputs and their copies in DVC's cache: an adapter in float32, or rows of about 1,500 bytes."""
    base, params, counts = setting.shapes.get("base"), setting.params, setting.counts
    if name in ("sft", "dpo", "control"):
        widths = 4 * base.width + 3 * (base.width + base.mlp) + 4 * base.width if base else 0.0
        return 2 * (base.layers * widths * params.sft.lora.r * 4 / GB) if base else 0.0
    rows = counts.get({"evaluate": "held_out", "agreement": "labelled"}.get(name, "candidates")) or 0.0
    return 2 * rows * (ATTACKS if name == "agreement" else 1) * 1500 / GB
