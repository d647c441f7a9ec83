"""Which engine answers for a model directory, with the row cache before it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from medqa import late_interaction
from medqa.engines import memory
from medqa.engines.base import ARITHMETIC, Engine
from medqa.engines.cached import CachedEngine
from medqa.engines.replicas import Replicas
from medqa.runtime import cluster
from medqa.runtime.errors import UserError
from medqa.runtime.sections import ComputeParams


def load(
    model_dir: Path, adapter: Path | None, dtype: str, compute: ComputeParams, batch_size: int
) -> CachedEngine:
    """The engine of a model directory, with an adapter on the model if there is one.

    The model itself is loaded when the first row is missing in the row cache. Raises UserError for a folder
    that is not there.
    """
    from importlib.metadata import version

    from medqa.runtime import hashing, row_cache

    folders = [model_dir, *([adapter] if adapter else [])]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not there; rerun the stage that writes it (dvc repro)")
    content = [hashing.dvc_hash(folder) for folder in folders]
    if compute.engine == "http" and not _is_encoder(model_dir):  # no server has encoders
        from medqa.engines import http_loading

        local = partial(_load_beside_server, model_dir, dtype, compute, batch_size)
        return http_loading.load(model_dir, adapter, content, compute, local)
    libraries = [version(library) for library in ("torch", "transformers", "gptqmodel")]
    identity = ["transformers", ARITHMETIC, libraries, content, dtype, _device(compute)]
    load_here = partial(load_transformers, adapter=None, dtype=dtype, batch_size=batch_size)
    named = dict(zip(("model_dir", "adapter"), folders, strict=False))
    start: Callable[[], Engine] = partial(load_here, **named)
    if compute.cluster:
        start = partial(Replicas, load_here, named, compute, batch_size)
    cache = row_cache.open_cache(compute)
    name = "+".join(content), " + ".join(folder.name for folder in folders)
    return CachedEngine(start, cache, name, identity, compute.max_failed_rows)


def _load_beside_server(
    model_dir: Path, dtype: str, compute: ComputeParams, batch_size: int, adapter: Path | None
) -> CachedEngine:
    """The engine in this process with which a server is compared.

    Its first row raises MemoryError if the model does not fit.
    """
    alone = compute.model_copy(update={"engine": "transformers", "cluster": None, "processes": 1})
    engine = load(model_dir, adapter, dtype, alone, batch_size)
    engine.start = partial(memory.in_room, engine.start, model_dir, dtype)
    return engine


def load_transformers(model_dir: Path, adapter: Path | None, dtype: str, batch_size: int) -> Engine:
    """The engine of a model directory in this process, without a row cache."""
    from medqa import model
    from medqa.engines.encoder_engine import EncoderEngine
    from medqa.engines.transformers_engine import TransformersEngine

    if _is_encoder(model_dir):
        return EncoderEngine(model_dir)
    merged = model.load_merged(model_dir, dtype, adapter)
    return TransformersEngine(merged, model.tokenizer(model_dir), batch_size)


def _device(compute: ComputeParams) -> str:
    """The kind of device that computes the rows: `cuda` or `cpu`."""
    from medqa import model

    if compute.cluster and compute.process_gpus is not None:
        return "cuda" if compute.process_gpus else "cpu"
    if compute.cluster in (None, "local"):
        return model.device().split(":")[0]
    cluster.connect(compute)
    return "cuda" if cluster.resources(compute)["num_gpus"] else "cpu"


def _is_encoder(model_dir: Path) -> bool:
    return (model_dir / late_interaction.CALIBRATION).is_file()
