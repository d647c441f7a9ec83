"""Train the tiny models that come with the project again: `python -m bench.ship`, seven minutes on 2 cores.

It follows medqa/miniature/shipped/recipe.yaml, replaces the models beside it, and prints the lines for
params.yaml. Nothing needs it but a change of the recipe or of the embedded corpus.
"""

import re

import yaml

from medqa import chat, models
from medqa.models.shipped import FOLDER, RECIPE, WEIGHTS
from medqa.runtime.hashing import dvc_hash, sha256_of
from medqa.runtime.model_sections import ModelsParams

CORPUS = FOLDER.parent / "corpus"


def main() -> None:
    """Train base and judge, and write them and the corpus's hash into the folder of the shipped models."""
    path = FOLDER / RECIPE
    text = path.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    section = ModelsParams(**recipe["models"])
    for name, source in section.sources().items():
        out = FOLDER / name
        models.make(source, CORPUS, section.seed(name, recipe["seed"]), out)
        (out / chat.RECORD).unlink()  # the stage `models` derives it
        print(f"models.{name}.sha256: {sha256_of(out / WEIGHTS)}", flush=True)
    path.write_text(re.sub(r"(?m)^corpus: \S+", f"corpus: {dvc_hash(CORPUS)}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
