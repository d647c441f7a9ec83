"""Stage `models`: pin a model of the Hub, or train a tiny one from scratch."""

from pathlib import Path
from typing import Any

from medqa import chat, models, params, records, stage


def main(name: str, corpus: Path, out: Path, curve: Path, metrics: Path) -> str:
    """Make the model `name` of the section `models`."""
    given = params.read()
    source = given["models"]
    losses = models.make(getattr(source, name), corpus, source.seed(name, given["seed"]), out)
    with records.whole(curve) as file:
        file.write("step\tloss\n" + "".join(f"{step}\t{loss:.6g}\n" for step, loss in enumerate(losses, 1)))
    for line in chat.read(out).described():
        print(f"models: {name}: {line}", flush=True)
    result = measured(given, out, curve)
    records.write_metrics(metrics, result)
    return f"{name} in {out} ({', '.join(f'{key} {value}' for key, value in result.items())})"


def measured(given: dict[str, Any], out: Path, curve: Path) -> dict[str, Any]:
    """The metrics, from the pin or the step curve and what a judge says of unseen lessons."""
    lines = curve.read_text(encoding="utf-8").splitlines()[1:]
    return models.summary(out, [float(line.split("\t")[1]) for line in lines])


if __name__ == "__main__":
    stage.run(main)
