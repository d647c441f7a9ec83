"""Which engine answers for a model directory, with the row cache before it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from medqa.engines.base import ARITHMETIC, CHUNK, EVERYTHING, Engine
from medqa.engines.cached import CachedEngine
from medqa.runtime.errors import UserError
from medqa.runtime.sections import ComputeParams


def load(
    model_dir: Path,
    adapter: Path | None,
    dtype: str,
    compute: ComputeParams,
    batch_size: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> CachedEngine:
    """The engine of a model directory with an adapter, if one is given. `progress` is told of each batch's
    rows.

    With `compute.row_cache`, rows that were made before are read, not made; the model is loaded when one is
    missing.
    """
    from importlib.metadata import version

    from medqa import model
    from medqa.runtime import hashing, row_cache

    folders = [model_dir, *([adapter] if adapter else [])]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{missing[0]} is not there; rerun the stage that writes it (dvc repro)")
    content = [hashing.dvc_hash(folder) for folder in folders]
    if compute.engine == "http":
        from medqa.engines import http_engine

        return http_engine.load(model_dir, adapter, content, compute, progress)
    name = " + ".join(folder.name for folder in folders)
    libraries = [version(library) for library in ("torch", "transformers", "gptqmodel")]
    identity = ["transformers", ARITHMETIC, libraries, content, dtype, model.device().split(":")[0]]

    start = partial(_transformers, model_dir, adapter, dtype, batch_size)

    def several() -> Engine:
        from medqa.engines.workers import Workers

        return Workers(start, compute.processes, batch_size, kept.finished, progress)

    opened = row_cache.open_cache(compute)
    one, loaded = compute.processes == 1, ("+".join(content), name)
    # Workers tell of each piece as it is done, so that none of them ever waits for the last row of a chunk.
    engine, chunk = (partial(start, progress), CHUNK * batch_size) if one else (several, EVERYTHING)
    kept = CachedEngine(engine, opened, loaded, identity, chunk, progress, compute.max_failed_rows)
    return kept


def _transformers(
    model_dir: Path,
    adapter: Path | None,
    dtype: str,
    batch_size: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> Engine:
    from medqa import model
    from medqa.engines import transformers_engine

    loaded = model.load_merged(model_dir, dtype, adapter)
    return transformers_engine.TransformersEngine(loaded, model.tokenizer(model_dir), batch_size, progress)
