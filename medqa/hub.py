"""Models and data sets of the Hugging Face Hub, held to one commit and to their checksums."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub as hf
import yaml
from huggingface_hub import errors

from medqa.runtime.errors import UserError

CONFIGS = ["config.json", "tokenizer_config.json"]
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
TOKENIZER_FILES = [
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
]
MODEL_FILES = [*WEIGHT_FILES, *TOKENIZER_FILES, "chat_template.jinja", "quantize_config.json"]
CARD = "README.md"
PICKLES = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt"]
PROVENANCE = "provenance.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
WAITS = (0.5, 1, 2, 4)
FAILURES = (errors.HTTPError, OSError, ValueError, RuntimeError, errors.CachedRepoTreeNotFoundError)


def pin(repo: str, revision: str, out: Path) -> dict:
    """Download the commit that revision names into the Hub's cache, write out/pin.json and return what it
    holds.

    `out` has the name of the model in params.yaml. Raises UserError if the Hub does not give the files, if
    there are no safetensors files or if the repo brings code.
    """
    commit = _resolve(repo, revision, "model", f"models.{out.name}.revision")
    held = _download(repo, commit, "model", CONFIGS)
    names = [name for name in held if "/" not in name and _matches(name, MODEL_FILES)]
    if not any(name.endswith(".safetensors") for name in names):
        only = (
            ", only pickles, which can run code when read"
            if any(_matches(name, PICKLES) for name in held)
            else ""
        )
        raise UserError(
            f"{repo} has no *.safetensors at its top{only}: choose a repo or revision with safetensors."
        )
    for name in set(CONFIGS).intersection(names):
        _refuse_code(repo, _fetch(repo, commit, name, "model"))
    _download(repo, commit, "model", MODEL_FILES)
    paths = {name: _fetch(repo, commit, name, "model") for name in names}
    pinned = {"repo": repo, "commit": commit, "licence": _stated_licence(repo, commit, held)}
    pinned["files"] = {name: _digest(path) for name, path in paths.items()}
    out.mkdir(parents=True, exist_ok=True)
    new = out / ".pin.json.new"
    new.write_text(json.dumps(pinned, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(out / "pin.json")
    return pinned


def local_path(model_dir: Path) -> Path:
    """The folder that from_pretrained can read: model_dir itself, or the cached snapshot its pin.json names,
    checked.

    Raises UserError if model_dir holds neither weights nor a sound pin.json, or if a file cannot be had as
    pinned.
    """
    if any(model_dir.glob("*.safetensors")):
        return model_dir
    if not (model_dir / "pin.json").is_file():
        raise UserError(f"{model_dir} holds neither *.safetensors nor pin.json: rerun the stage `models`.")
    pinned = _read_pin(model_dir / "pin.json")
    repo, commit = pinned["repo"], pinned["commit"]
    paths = [_fetch(repo, commit, name, "model", sha256) for name, sha256 in sorted(pinned["files"].items())]
    return paths[0].parent


def identity(model_dir: Path) -> str:
    """What a model directory holds, in one word: repo@commit of a pin, or the beginning of the weights'
    sha256.
    """
    if (model_dir / "pin.json").is_file():
        pinned = _read_pin(model_dir / "pin.json")
        return f"{pinned['repo']}@{pinned['commit']}"
    weights = sorted(model_dir.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{model_dir} holds neither *.safetensors nor pin.json: rerun the stage `models`.")
    return hashlib.sha256("".join(map(_digest, weights)).encode()).hexdigest()[:12]


def address(model_dir: Path) -> tuple[str, str | None]:
    """What other programs find a model by: repo and commit of a pin; a model made here has a description
    only.
    """
    if (model_dir / "pin.json").is_file():
        pinned = _read_pin(model_dir / "pin.json")
        return pinned["repo"], pinned["commit"]
    return describe(model_dir), None


def describe(model_dir: Path) -> str:
    """A model as the metrics name it: its directory's name and what that holds."""
    return f"{model_dir.name} ({identity(model_dir)})"


def licence(model_dir: Path) -> str:
    """The licence of a model's weights: as the pinned repo or the converted file states it, else "made here".

    "not stated" if the repo states none, "not recorded" if its README.md could not be had or the pin is an
    old one.
    """
    if (model_dir / "pin.json").is_file():
        return _read_pin(model_dir / "pin.json").get("licence", "not recorded")
    return provenance(model_dir).get("licence", "made here")


def provenance(model_dir: Path) -> dict[str, str]:
    """The file that a model was converted from, with sum and licence, and the system prompt that its template
    adds.
    """
    path = model_dir / PROVENANCE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fetch_dataset(repo: str, revision: str, patterns: list[str], key: str) -> tuple[str, list[Path]]:
    """Commit and local paths, sorted by name, of the files of a data set repo that match one of the patterns.

    `key` is where params.yaml names the revision. Raises UserError if the Hub does not give the files or none
    matches.
    """
    commit = _resolve(repo, revision, "dataset", key)
    files = sorted(_download(repo, commit, "dataset", patterns))
    names = [name for name in files if _matches(name, patterns)]
    if not names:
        seen = ", ".join(files[:8]) or "none"
        raise UserError(
            f"No file of the data set {repo} at {commit} matches {', '.join(patterns)}; it has {seen}."
        )
    return commit, [_fetch(repo, commit, name, "dataset") for name in names]


def fetch_file(repo: str, commit: str, name: str, sha256: str) -> Path:
    """The local path of one file of a model repo, with this sum. Raises UserError if it cannot be had so."""
    return _fetch(repo, commit, name, "model", sha256)


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _resolve(repo: str, revision: str, kind: str, key: str) -> str:
    def call() -> str:
        info = hf.HfApi().model_info if kind == "model" else hf.HfApi().dataset_info
        try:
            return info(repo, revision=revision, timeout=30).sha
        except errors.RevisionNotFoundError as error:
            message = f"{repo} has no revision {revision}: set {key} in params.yaml to a commit that"
            raise UserError(f"{message} the repo's page on the Hub lists.") from error
        except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
            # A commit is known without the Hub, so with none in reach go on: every file may be in the cache.
            if COMMIT.fullmatch(revision) and (
                _passing(error) or isinstance(error, errors.OfflineModeIsEnabled)
            ):
                return revision
            raise

    return _ask(call, repo, revision)


def _download(repo: str, commit: str, kind: str, patterns: list[str]) -> list[str]:
    """Download the files that match, and give the names of all files of the commit."""

    def call() -> list[str]:
        nested = ["*/*"] if kind == "model" else None
        hf.snapshot_download(
            repo, repo_type=kind, revision=commit, allow_patterns=patterns, ignore_patterns=nested
        )
        return [file.path for file in hf.get_cached_repo_tree(repo, repo_type=kind, revision=commit)]

    return _ask(call, repo, commit)


def _fetch(repo: str, commit: str, name: str, kind: str, sha256: str = "") -> Path:
    """The cached file, downloaded if it is missing, and once more if its sum is not sha256 or, without, the
    Hub's.
    """
    where = {"repo_id": repo, "filename": name, "revision": commit, "repo_type": kind}
    for again in (False, True):
        cached = None if again else hf.try_to_load_from_cache(**where)
        if not isinstance(cached, str):
            cached = _ask(lambda force=again: hf.hf_hub_download(**where, force_download=force), repo, commit)
        path = Path(cached)
        # The Hub names a blob by its sum: sha256 for a big file, git's own sha1 for a small one.
        wanted = sha256 or (path.readlink().name if path.is_symlink() else "")
        if len(wanted) not in (40, 64) or _digest(path, as_git=len(wanted) == 40) == wanted:
            return path
        _drop(path)
    raise UserError(
        f"{name} of {repo} at {commit} came twice with a wrong checksum: check the disk and the network."
    )


def _digest(path: Path, as_git: bool = False) -> str:
    if as_git:
        return hashlib.sha1(
            b"blob %d\0" % path.stat().st_size + path.read_bytes(), usedforsecurity=False
        ).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop(path: Path) -> None:
    # The blob has to go too, or the Hub's client would link the broken bytes again.
    if path.is_symlink():
        (path.parent / path.readlink()).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _stated_licence(repo: str, commit: str, names: Sequence[str]) -> str:
    """What the head of README.md says. It is a file of the commit: the same later, and without the Hub."""
    if CARD not in names:
        return "not stated"
    try:
        card = hf.metadata_load(_fetch(repo, commit, CARD, "model")) or {}
    except UserError:
        return "not recorded"  # The Hub is out of reach and the cache has no README.md; its weights will do.
    except (ValueError, yaml.YAMLError):
        return "not stated"
    stated = card.get("license")
    if stated == "other":
        stated = card.get("license_name", stated)
    text = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
    return text if text and text.isprintable() else "not stated"


def _refuse_code(repo: str, config: Path) -> None:
    try:
        brings_code = "auto_map" in json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{config.name} of {repo} is not a JSON object: choose another repo or revision."
        ) from error
    if brings_code:
        raise UserError(
            f"{repo} wants to run code of its own (auto_map in {config.name}): choose another model."
        )


def _read_pin(path: Path) -> dict[str, Any]:
    try:
        pinned = json.loads(path.read_text(encoding="utf-8"))
        files = pinned["files"]
        # A name that leads out of the snapshot's folder would be read, and on a wrong sum deleted, there.
        plain = all("/" not in name and len(files[name]) == 64 for name in files)
        sound = files and plain and isinstance(pinned["repo"], str) and COMMIT.fullmatch(pinned["commit"])
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise UserError(f"{path} is not a pin of this program: rerun the stage `models`.")
    return pinned


def _ask(call: Callable, repo: str, revision: str) -> Any:
    """What call returns; a passing failure is tried again after each wait, the last one becomes a UserError."""
    for wait in (*WAITS, None):
        try:
            return call()
        except FAILURES as error:
            if wait is None or not _passing(error):
                raise UserError(_told(_root(error), repo, revision)) from error
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def _root(error: BaseException) -> BaseException:
    while error.__cause__ and not isinstance(error, (errors.HTTPError, errors.OfflineModeIsEnabled)):
        error = error.__cause__
    return error


def _passing(error: BaseException) -> bool:
    root = _root(error)
    status = root.response.status_code if isinstance(root, errors.HfHubHTTPError) else None
    # A short read and hf_xet's failures come as bare errors without a number.
    bare = type(root) in (OSError, ConnectionError, TimeoutError, RuntimeError) and not getattr(
        root, "errno", None
    )
    broken = status in (408, 429) or status >= 500 if status else bare or isinstance(root, errors.HTTPError)
    # The client has tried again by itself before it raises LocalEntryNotFoundError.
    return broken and not isinstance(error, errors.LocalEntryNotFoundError)


def _told(error: BaseException, repo: str, revision: str) -> str:
    login = "set HF_TOKEN or run `hf auth login`"
    # The errors' own texts are left out: they run over many lines and may show a signed address.
    texts = {
        errors.GatedRepoError: f"{repo} is gated: accept its terms on its page of the Hub, then {login}.",
        errors.RepositoryNotFoundError: f"The Hub shows no {repo}: check the spelling and, if it is private, {login}.",
        errors.HFValidationError: f"{repo!r} is not the name of a repo: write it as owner/name.",
        errors.OfflineModeIsEnabled: f"HF_HUB_OFFLINE is set but {repo} at {revision} is not in the cache: unset it.",
    }
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else type(error).__name__
    other = f"The Hub did not give {repo} at {revision} ({status}): check the network and HF_ENDPOINT and run again."
    if status in (401, 403):
        other = f"The Hub refused your token for {repo} ({status}): {login} with one that may read it."
    elif isinstance(error, OSError) and error.errno:
        other = f"The cache cannot take {repo} ({error.strerror}): check the disk's room and rights, or set HF_HOME."
    return next((text for kind, text in texts.items() if isinstance(error, kind)), other)
