"""The tiny models that come with the project, checked by sha256, so that everyone starts from them."""

import shutil
from pathlib import Path

import yaml

from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.hashing import check_sha256, dvc_hash
from medqa.runtime.model_sections import ShippedModel

FOLDER = Path(__file__).parents[1] / "miniature" / "shipped"
RECIPE = "recipe.yaml"  # how the models were made: the corpus's hash, the seed, the section `models`
WEIGHTS = "model.safetensors"


def make(source: ShippedModel, corpus: Path, out: Path) -> dict[str, str]:
    """Copy a model to `out`; returns its provenance.

    Raises UserError for a name that is not there, for weights of another sha256, and for a corpus that the
    models did not learn from.
    """
    recipe = yaml.safe_load((FOLDER / RECIPE).read_text(encoding="utf-8"))
    if source.name not in recipe["models"]:
        names = ", ".join(recipe["models"])
        raise UserError(f"no model named {source.name!r} comes with the project; choose one of {names}")
    if dvc_hash(corpus) != recipe["corpus"]:
        raise UserError(
            f"{corpus} is not what the shipped models learnt from: medqa preset files has models that learn "
            "from your own files; after a change of the embedded corpus, copy `models` from "
            f"medqa/miniature/shipped/{RECIPE} into params.yaml, which trains them here"
        )
    check_sha256(FOLDER / source.name / WEIGHTS, source.sha256, f"{source.name}/{WEIGHTS}")
    with atomic_folder(out) as folder:
        shutil.copytree(FOLDER / source.name, folder, dirs_exist_ok=True)
    return source.model_dump(exclude={"source", "template"}) | {"licence": recipe["licence"]}
