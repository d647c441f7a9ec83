"""Costs of a stage that never ran here: from the shapes of its models and the rows that it will read."""

from medqa.estimates import workload
from medqa.estimates.memory import LIBRARIES_GB, activations_gb, memory_gb, weights_gb
from medqa.estimates.seconds import LIBRARIES_SECONDS, reading, stage_seconds
from medqa.estimates.setting import TRAINING, Setting
from medqa.estimates.shapes import GB, hub_snapshot
from medqa.estimates.table import Cost
from medqa.estimates.workload import ATTACKS
from medqa.runtime.model_sections import AnySource
from medqa.runtime.model_sources import (
    GgufModel,
    HubModel,
    ScratchModel,
    TunedEncoder,
    TunedJudge,
    WheelEncoder,
)

# Seconds of stages without a model.
LIGHT = {"check": 0.5, "data": 2.0, "pairs": 1.0, "compare": 3.0, "summary": 0.5, "report": 2.0}
LIGHT_GB, GPU_CONTEXT_GB = 0.1, 0.6
HASHING_SECONDS = 2.0  # per GB of files; how long the network takes is not known
QUANTISING_SECONDS = 1.3e-6  # per parameter: 180 s for 135 million on two cores


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
    seconds, gb = stage_seconds(name, setting), memory_gb(name, setting)
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
    seconds, memory = LIBRARIES_SECONDS, LIBRARIES_GB
    if isinstance(source, GgufModel) and source.quantise:
        seconds += QUANTISING_SECONDS * shape.parameters
    if isinstance(source, TunedJudge | ScratchModel):
        tokens = source.steps * source.batch_size * source.max_length / 2
        passes = 4 if isinstance(source, TunedJudge) else 3  # three labels per answer share its text
        seconds += reading(setting, shape, tokens, passes)
        memory += activations_gb(shape, source.batch_size * source.max_length, 32, False)
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


def _disk_gb(name: str, setting: Setting) -> float:
    """Outputs and their copies in DVC's cache: an adapter in float32, or rows of about 1,500 bytes."""
    base, params, counts = setting.shapes.get("base"), setting.params, setting.counts
    if name in TRAINING:
        widths = 4 * base.width + 3 * (base.width + base.mlp) + 4 * base.width if base else 0.0
        return 2 * (base.layers * widths * params.sft.lora.r * 4 / GB) if base else 0.0
    rows = counts.get({"evaluate": "held_out", "agreement": "labelled"}.get(name, "candidates")) or 0.0
    return 2 * rows * (ATTACKS if name == "agreement" else 1) * 1500 / GB
