"""Trackers: MLflow, TensorBoard, Trackio and Weights & Biases get curves and summary through transformers."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medqa.runtime.environment import project
from medqa.runtime.errors import UserError

PACKAGES = {"mlflow": "mlflow-skinny", "tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
NAME = "medqa"  # of the experiment or project in the tracker


def arguments(tracker: str | None, run: str) -> dict[str, Any]:
    """Trainer arguments that send the curves of a run to the tracker; None sends them nowhere.

    Where a tracker writes is set by the tracker's own environment variables, such as MLFLOW_TRACKING_URI; by
    default that is a folder of the main repository. Raises UserError if the tracker's package is missing.
    """
    if tracker is None:
        return {"report_to": "none"}
    if find_spec(tracker) is None:
        raise UserError(
            f"compute.tracking = {tracker!r} needs the package {PACKAGES[tracker]}: "
            f"pip install -c constraints.txt {PACKAGES[tracker]}, or leave compute.tracking empty"
        )
    folder = project().resolve()
    defaults = {
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # since 3.13 MLflow refuses a folder without it
        "MLFLOW_EXPERIMENT_NAME": NAME,
        "TENSORBOARD_LOGGING_DIR": str(folder / "runs" / run),
        "WANDB_PROJECT": NAME,
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return {"report_to": tracker, "run_name": run, "project": NAME}


def log_summary(tracker: str | None, path: Path) -> None:
    """Send the numbers of a summary, a JSON file, to the tracker as a run of its own."""
    if tracker is None:
        return
    settings = arguments(tracker, "summary") | {"output_dir": "unused", "use_cpu": True}
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import get_reporting_integration_callbacks

    run = (TrainingArguments(**settings), TrainerState(), TrainerControl())
    callback = get_reporting_integration_callbacks([tracker])[0]()
    callback.on_train_begin(*run)
    callback.on_log(*run, logs=json.loads(path.read_text(encoding="utf-8")))
    callback.on_train_end(*run)
