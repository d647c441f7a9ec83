"""The peak memory of a stage that runs models, from their shapes and the tokens that are read at once."""

from medqa.estimates.seconds import BENCHMARK_TOKENS
from medqa.estimates.setting import JUDGED, TRAINING, Setting
from medqa.estimates.shapes import BITS, GB, Shape
from medqa.runtime.sections import TrainingParams

LIBRARIES_GB = 0.51  # of memory that the libraries take before any model
RETAINED_GB = 0.1  # by the allocator, per further model that a stage loads
LOGIT_ROWS = 256  # whose logits are in memory at once
LONGEST = 2.0  # times the mean length, that of the longest rows


def memory_gb(name: str, setting: Setting) -> float | None:
    """The peak of a stage that runs models, one after the other, without a GPU."""
    params, shapes = setting.params, setting.shapes
    base = shapes.get("base")
    judge = shapes.get("judge" if name == "judge" else params.evaluate.judge)
    peaks: list[float | None] = []
    if name in TRAINING:
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
    used = shapes[:1] if name in (*TRAINING, "generate", "benchmark") else shapes
    return max((shape.weights_gb(setting.params.dtype) for shape in used if shape), default=0.0)


def _training_gb(shape: Shape, setting: Setting, name: str) -> float:
    section: TrainingParams = setting.params.sft if name == "sft" else setting.params.dpo
    bits = BITS[setting.params.dtype]
    mean = setting.row_tokens("sft" if name == "sft" else "questions")
    length = min(section.max_length, LONGEST * mean)
    tokens = section.micro_batch_size * length * (1 if name == "sft" else 2)
    weights = shape.parameters * (bits if section.dequantised else bits + 4) / 8 / GB
    logits = (LOGIT_ROWS if name == "sft" else tokens / 2) * shape.vocabulary * 4 * 2 / GB
    step = logits + activations_gb(shape, tokens, bits, section.activation_checkpointing)
    loading = shape.stored_gb if section.dequantised and shape.is_quantised else 0.0
    return weights + max(step, loading)


def activations_gb(shape: Shape, tokens: float, bits: int, checkpointing: bool) -> float:
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
