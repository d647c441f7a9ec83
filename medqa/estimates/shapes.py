"""The shapes of models: from a config.json, or before any download from what params.yaml says."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa.runtime.model_sections import AnySource
from medqa.runtime.model_sources import (
    GgufModel,
    HubModel,
    ScratchModel,
    ShippedModel,
    TunedEncoder,
    TunedJudge,
    WheelEncoder,
)

SHIPPED = Path(__file__).parent.parent / "miniature" / "shipped"
SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([BM])(?![a-z])", re.IGNORECASE)  # the 1.5B of a name
BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
VOCABULARY = 100_000  # of a model of which only the name is known
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """What costs depend on; where only a model's name is known, with the widths usual for its size."""

    parameters: float
    layers: float
    width: float
    mlp: float
    cache_width: float  # of the keys of one layer, and of its values
    vocabulary: int
    stored_gb: float  # of its files

    @property
    def is_quantised(self) -> bool:
        """Whether the files have fewer than 16 bits per weight."""
        return self.stored_gb < self.weights_gb("bfloat16")

    def weights_gb(self, dtype: str) -> float:
        """The weights in memory."""
        return self.parameters * BITS[dtype] / 8 / GB


def of_model(source: AnySource) -> Shape | None:
    """The shape of a model of params.yaml; None if neither a configuration nor its name says it."""
    if isinstance(source, TunedJudge | TunedEncoder):
        return of_model(source.start)
    for folder in _folders(source):
        if (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if "hidden_size" in config:
                return _from_config(config)
    if isinstance(source, ScratchModel):
        return _from_widths(
            source.layers, source.width, 4 * source.width, source.width, source.vocabulary, 32
        )
    return None if isinstance(source, WheelEncoder) else _from_name(source)


def _folders(source: AnySource) -> list[Path]:
    """Where a configuration of this source is, if it is here."""
    if isinstance(source, ShippedModel):
        return [SHIPPED / source.name]
    if isinstance(source, HubModel):
        return [hub_snapshot(source)]
    return []


def hub_snapshot(source: HubModel) -> Path:
    """The folder in which the Hub's client keeps this commit of a model, whether it is there or not."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return cache / f"models--{source.repo.replace('/', '--')}" / "snapshots" / source.revision


def _from_config(config: dict[str, Any]) -> Shape:
    width, heads = config["hidden_size"], config.get("num_attention_heads", 1)
    cache_width = width * config.get("num_key_value_heads", heads) // heads
    bits = 4.5 if config.get("quantization_config") else BITS.get(config.get("dtype", "bfloat16"), 16)
    mlp = config.get("intermediate_size", 4 * width)
    return _from_widths(config["num_hidden_layers"], width, mlp, cache_width, config["vocab_size"], bits)


def _from_widths(
    layers: float, width: float, mlp: float, cache_width: float, vocabulary: int, bits: float
) -> Shape:
    blocks = layers * width * (2 * width + 2 * cache_width + 3 * mlp)
    embedding = vocabulary * width
    stored = (blocks * bits + embedding * max(16, bits)) / 8 / GB
    return Shape(blocks + embedding, layers, width, mlp, cache_width, vocabulary, stored)


def _from_name(source: HubModel | GgufModel | ShippedModel) -> Shape | None:
    """The shape by the number of parameters in the name, such as 1.5B or 135M."""
    text = str(getattr(source, "repo", None) or getattr(source, "file", ""))
    if not (match := SIZE.search(text.rpartition("/")[2].replace("-", " ").replace("_", " "))):
        return None
    parameters = float(match[1]) * (1e9 if match[2].upper() == "B" else 1e6)
    # Blocks of 60 layers per 3,000 of width, with an MLP of four times the width: 14.5 w^2 each.
    width = (50 * parameters / 14.5) ** (1 / 3)
    quantised = isinstance(source, GgufModel) or re.search("int4|gptq|awq", text, re.IGNORECASE)
    bits = 5.0 if isinstance(source, GgufModel) else 4.5 if quantised else 16.0
    # Other formats than GGUF leave the embedding as it was.
    whole = 0.0 if isinstance(source, GgufModel) else VOCABULARY * width
    stored = ((parameters - whole) * bits + whole * 16) / 8 / GB
    return Shape(parameters, width / 50, width, 4 * width, width / 4, VOCABULARY, stored)
