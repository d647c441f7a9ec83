"""Stage `models`: pin a model of the Hub, convert one, or train a tiny one from scratch."""

from pathlib import Path
from typing import Any

from medqa import jsonl, models
from medqa.curves import read_curve, write_curve
from medqa.runtime import stage
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(name: str, out: Path, curves: Path, metrics: Path) -> str:
    """Make the model of the stage `name` in the folder `out`; the other folders get a file of its name."""
    params, model = read_params(), model_name(name)
    sources = params.models.sources()
    if model not in sources:
        raise UserError(f"--name {name}: must end with @ and one of `models` ({', '.join(sources)})")
    seed = params.models.seed(model, params.seed)
    losses = models.make(sources[model], Path(params.corpus), seed, out / model)
    steps = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    write_curve(curves / f"{model}.tsv", steps, {"loss": "loss"})
    for line in models.describe(out / model):
        print(f"models: {model}: {line}", flush=True)
    result = compute_metrics(params, name, out, curves)
    jsonl.write_metrics(metrics / f"{model}.json", result)
    return f"{model} in {out / model}: {models.headline(result)}"


def compute_metrics(params: Params, name: str, out: Path, curves: Path) -> dict[str, Any]:
    """The metrics, from the model directory and the step curve, which is empty where nothing was trained."""
    model = model_name(name)
    (out / model).stat()  # raises FileNotFoundError where it was not pulled
    losses = read_curve(curves / f"{model}.tsv", allow_empty=True)["loss"]
    return models.summary(out / model, losses)


def model_name(name: str) -> str:
    """NAME of models@NAME, which DVC, run in a folder below, calls ../dvc.yaml:models@NAME."""
    return name.rpartition("@")[2]


if __name__ == "__main__":
    stage.run(main)
