"""Models and data sets of the Hugging Face Hub, pinned to one commit and to their checksums."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub as hf
import yaml

from medqa import hub_client, jsonl
from medqa.hub_client import matches
from medqa.runtime.errors import UserError
from medqa.runtime.hashing import sha256_of

CONFIGS = ["config.json", "tokenizer_config.json"]
WEIGHTS = "*.safetensors"
MODEL_FILES = [WEIGHTS, "*.safetensors.index.json", "config.json", "generation_config.json"]
MODEL_FILES += ["tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"]
MODEL_FILES += ["chat_template.jinja", "quantize_config.json"]
CARD = "README.md"
PICKLES = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt"]
PIN = "pin.json"
PROVENANCE = "provenance.json"


def pin(repo: str, revision: str, out: Path) -> dict[str, Any]:
    """Download a revision's commit into the Hub's cache, write out/pin.json, and return its content.

    `out` has the name of the model in params.yaml. Raises UserError if the Hub does not give the files, if
    there are no safetensors files or if the repo brings code.
    """
    commit = hub_client.resolve(repo, revision, "model", f"models.{out.name}.revision")
    listed = hub_client.download(repo, commit, "model", CONFIGS)
    names = [name for name in listed if "/" not in name and matches(name, MODEL_FILES)]
    if not any(matches(name, [WEIGHTS]) for name in names):
        pickled = any(matches(name, PICKLES) for name in listed)
        only = ", only pickles, which can run code when read" if pickled else ""
        raise UserError(
            f"{repo} has no *.safetensors at its top{only}: choose a repo or revision with safetensors."
        )
    for name in CONFIGS:
        if name in names:
            _refuse_code(repo, hub_client.fetch(repo, commit, name, "model"))
    hub_client.download(repo, commit, "model", MODEL_FILES)
    files = {name: hub_client.digest(hub_client.fetch(repo, commit, name, "model")) for name in names}
    pinned = {
        "repo": repo,
        "commit": commit,
        "licence": _stated_licence(repo, commit, listed),
        "files": files,
    }
    with jsonl.atomic_write(out / PIN) as file:
        file.write(json.dumps(pinned, indent=2, sort_keys=True) + "\n")
    return pinned


def local_path(model_dir: Path) -> Path:
    """The folder for from_pretrained: model_dir itself, or the cached snapshot of its pin, checked.

    Raises UserError if model_dir holds neither weights nor a sound pin.json, or if a file cannot be had as
    pinned.
    """
    if any(model_dir.glob(WEIGHTS)):
        return model_dir
    if not (pinned := read_pin(model_dir)):
        raise _nothing_there(model_dir)
    paths = [
        hub_client.fetch(pinned["repo"], pinned["commit"], name, "model", sha256)
        for name, sha256 in sorted(pinned["files"].items())
    ]
    return paths[0].parent


def identity(model_dir: Path) -> str:
    """The content of a model directory in one word: repo@commit of a pin, or a hash of the weights."""
    if pinned := read_pin(model_dir):
        return f"{pinned['repo']}@{pinned['commit']}"
    weights = sorted(model_dir.glob(WEIGHTS))
    if not weights:
        raise _nothing_there(model_dir)
    return hashlib.sha256("".join(map(sha256_of, weights)).encode()).hexdigest()[:12]


def address(model_dir: Path) -> tuple[str, str | None]:
    """How other programs find a model: repo and commit of a pin; a description of a model made here."""
    pinned = read_pin(model_dir)
    return (pinned["repo"], pinned["commit"]) if pinned else (describe(model_dir), None)


def describe(model_dir: Path) -> str:
    """A model as the metrics name it: the name of its directory, and its identity."""
    return f"{model_dir.name} ({identity(model_dir)})"


def licence(model_dir: Path) -> str:
    """The licence of a model's weights: as the pinned repo or the converted file states it, or "made here".

    "not stated" if the repo states none, "not recorded" if its README.md was out of reach or the pin is old.
    """
    if pinned := read_pin(model_dir):
        return pinned.get("licence", "not recorded")
    return provenance(model_dir).get("licence", "made here")


def provenance(model_dir: Path) -> dict[str, str]:
    """The file that a model was converted from, and the system prompt that its chat template adds."""
    path = model_dir / PROVENANCE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_pin(model_dir: Path) -> dict[str, Any] | None:
    """The pin of a model directory, or None without one. Raises UserError for a file that is no pin."""
    path = model_dir / PIN
    if not path.is_file():
        return None
    try:
        pinned = json.loads(path.read_text(encoding="utf-8"))
        files = pinned["files"]
        # A name that leads out of the snapshot's folder would be read, and on a wrong sum deleted, there.
        plain = all("/" not in name and len(files[name]) == 64 for name in files)
        named = isinstance(pinned["repo"], str) and hub_client.COMMIT.fullmatch(pinned["commit"])
        sound = files and plain and named
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise UserError(f"{path} is not a pin of this program: rerun the stage `models`.")
    return pinned


def fetch_dataset(repo: str, revision: str, patterns: list[str], key: str) -> tuple[str, list[Path]]:
    """Commit and local paths, sorted by name, of the files of a data set that match one of the patterns.

    `key` is where params.yaml names the revision. Raises UserError if the Hub does not give the files or none
    matches.
    """
    commit = hub_client.resolve(repo, revision, "dataset", key)
    files = sorted(hub_client.download(repo, commit, "dataset", patterns))
    names = [name for name in files if matches(name, patterns)]
    if not names:
        shown = ", ".join(files[:8]) or "none"
        raise UserError(
            f"No file of the data set {repo} at {commit} matches {', '.join(patterns)}; it has {shown}."
        )
    return commit, [hub_client.fetch(repo, commit, name, "dataset") for name in names]


def card_licence(card: Path) -> str:
    """The licence that the head of a README.md states, or "not stated"."""
    try:
        metadata = hf.metadata_load(card) or {}
    except (ValueError, yaml.YAMLError):
        return "not stated"
    stated = metadata.get("license")
    if stated == "other":
        stated = metadata.get("license_name", stated)
    text = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
    return text if text and text.isprintable() else "not stated"


def _stated_licence(repo: str, commit: str, names: Sequence[str]) -> str:
    if CARD not in names:
        return "not stated"
    try:  # README.md is a file of the commit: the same later, and without the Hub
        return card_licence(hub_client.fetch(repo, commit, CARD, "model"))
    except UserError:
        return "not recorded"  # the Hub is out of reach, and only the weights are in the cache


def _refuse_code(repo: str, config: Path) -> None:
    try:
        brings_code = "auto_map" in json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        message = f"{config.name} of {repo} is not a JSON object: choose another repo or revision."
        raise UserError(message) from error
    if brings_code:
        raise UserError(
            f"{repo} wants to run code of its own (auto_map in {config.name}): choose another model."
        )


def _nothing_there(model_dir: Path) -> UserError:
    return UserError(f"{model_dir} holds neither *.safetensors nor pin.json: rerun the stage `models`.")
