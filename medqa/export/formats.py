"""The formats of an export: each writes the files of a model, and reads them as a model that can answer."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa import chat, hub, model
from medqa.export import gguf_file, ollama
from medqa.miniature.quantise import quantise
from medqa.models import gguf
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMATS = ("merged", "gptq", "gguf")
GGUF, MODELFILE = "model.gguf", "Modelfile"
GROUP_SIZE = 128  # of a base that was not quantised


@dataclass(frozen=True)
class Merged:
    """A policy with its adapter merged into plain weights, and what the formats need beside them."""

    model: "PreTrainedModel"
    tok: "PreTrainedTokenizerBase"
    base: Path
    calibration: Sequence[str]  # texts on which GPTQ measures its rounding
    max_new_tokens: int


def merge(base: Path, adapter: Path | None, dtype: str) -> "PreTrainedModel":
    """The policy as plain weights: base and adapter added in float32, then rounded once to `dtype`."""
    import torch

    return model.load_merged(base, "float32", adapter).to(getattr(torch, dtype))


def check(format: str, base: Path) -> None:
    """Raise UserError for a model that a format cannot hold, before any work."""
    if format == "gguf":
        from transformers import AutoConfig

        gguf_file.check(AutoConfig.from_pretrained(hub.local_path(base)))


def write(format: str, merged: Merged, out: Path) -> None:
    """Write weights, configuration, generation settings, tokenizer and chat template to the folder `out`."""
    match format:
        case "merged":
            merged.model.save_pretrained(out)
        case "gptq":
            half = str(merged.model.dtype) != "torch.float32"
            grid = _grid(merged.base)
            quantise(merged.model.float(), merged.tok, merged.calibration, out, **grid, half=half)
        case "gguf":
            merged.model.config.save_pretrained(out)
            gguf_file.write(merged.model, merged.tok, out / GGUF, hub.licence(merged.base))
            text = ollama.modelfile(merged.tok, chat.read(merged.base), GGUF, merged.max_new_tokens)
            (out / MODELFILE).write_text(text, encoding="utf-8")
    merged.tok.save_pretrained(out)
    _pad_left(out)
    _write_generation(merged, out)
    for path in out.iterdir():  # safetensors writes files that only their owner may read
        path.chmod((out / "config.json").stat().st_mode)


def _grid(base: Path) -> dict[str, Any]:
    """Group size and symmetry of the base's own quantisation."""
    from transformers import AutoConfig

    stated = getattr(AutoConfig.from_pretrained(hub.local_path(base)), "quantization_config", None) or {}
    return {"group_size": stated.get("group_size", GROUP_SIZE), "sym": stated.get("sym", True)}


def _pad_left(out: Path) -> None:
    """Pad prompts on the left, without which transformers answers a batch of them wrongly."""
    path = out / "tokenizer_config.json"
    saved = json.loads(path.read_text(encoding="utf-8")) | {"padding_side": "left"}
    for key in ("is_local", "local_files_only"):  # of the machine that wrote it
        saved.pop(key, None)
    path.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_generation(merged: Merged, out: Path) -> None:
    """Greedy answers as `evaluate` has them, whatever the base's own settings are."""
    from transformers import GenerationConfig

    GenerationConfig(
        do_sample=False,
        max_new_tokens=merged.max_new_tokens,
        eos_token_id=list(chat.read(merged.base).ends.values()),
        pad_token_id=merged.tok.pad_token_id,
    ).save_pretrained(out)


def read(format: str, folder: Path, dtype: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The exported model and its tokenizer, from nothing but the files.

    Raises UserError if they do not load.
    """
    try:
        if format != "gguf":
            return model.load_merged(folder, dtype), model.tokenizer(folder)
        with tempfile.TemporaryDirectory() as name:
            alone = Path(name, "file")  # what lies beside the file must not help
            alone.mkdir()
            (alone / GGUF).symlink_to((folder / GGUF).absolute())
            net, tok = gguf.convert(alone / GGUF)
            converted = Path(name, "model")
            net.save_pretrained(converted)
            tok.save_pretrained(converted)
            return model.load_merged(converted, dtype), model.tokenizer(converted)
    except Exception as error:  # whatever a library says of a file that it cannot read
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the exported {format} does not load back ({reason}); nothing was written"
        ) from error


def same_weights(format: str) -> bool:
    """Whether the exported weights are those of the merged model, bit for bit."""
    return format != "gptq"
