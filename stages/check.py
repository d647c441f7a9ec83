"""Stage `check`: params.yaml is right, before DVC makes paths of the text in it."""

from pathlib import Path

from medqa import jsonl
from medqa.runtime import stage
from medqa.runtime.params import read_params


def main(out: Path) -> str:
    """Check all of params.yaml, and write `out`, which is always the same, so that nothing reruns for it."""
    params = read_params()
    with jsonl.atomic_write(out) as file:
        file.write("params.yaml is right\n")
    names = ", ".join(params.models.sources())
    roles = f"judged by {params.evaluate.judge}, embedded by {params.encoder}"
    return f"corpus {params.corpus}, models {names}, {roles}"


if __name__ == "__main__":
    stage.run(main)
