"""The policies of a finished run: the folders of base, SFT and DPO, and the engine of each."""

from pathlib import Path
from typing import TYPE_CHECKING

from medqa import hub, model
from medqa.runtime.errors import UserError
from medqa.runtime.sections import Params

if TYPE_CHECKING:
    from medqa.engines.transformers_engine import TransformersEngine


def model_dir(name: str, models: Path) -> Path:
    """The folder of a model of the run: a policy, or a judge. Raises UserError where there is none yet."""
    folder = models / name
    if not any(any(folder.glob(pattern)) for pattern in (hub.WEIGHTS, hub.PIN)):
        raise UserError(f"{folder} holds no model yet; make it with dvc repro")
    return folder


def folders(name: str, models: Path) -> tuple[Path, Path | None]:
    """The base, and the adapter of the policy `name` on it, if any. Raises as `model_dir`."""
    return model_dir("base", models), None if name == "base" else model_dir(name, models)


def load(name: str, params: Params, models: Path) -> "TransformersEngine":
    """The engine of a policy in this process, as `evaluate` has it. Raises as `folders`."""
    from medqa.engines.transformers_engine import TransformersEngine

    base, adapter = folders(name, models)
    return TransformersEngine(
        model.load_merged(base, params.dtype, adapter), model.tokenizer(base), batch_size=1
    )
