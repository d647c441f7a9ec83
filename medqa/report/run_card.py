"""The run card: models by name and size, data, labels and seed, as far as files of the run know them."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from medqa import hub
from medqa.report import tables
from medqa.report.labels import MODELS, OUTPUTS, SOURCES, label
from medqa.runtime.data_section import EmbeddedRows, HubRows, PreferenceFiles, SftFile
from medqa.runtime.sections import Params

WORD_BITS = 32  # GPTQ packs its weights into whole numbers of so many bits
PACKED = ".qweight"
PACKING = (".qzeros", ".scales", ".g_idx")  # what GPTQ stores beside the weights

Facts = list[tuple[str, str]]  # labels with their values


def facts(models: Path, metrics: dict[str, dict[str, Any]], adapters: list[str], params: Params) -> Facts:
    """What a reader wants to know of a run first; `adapters` are the models that training made.

    Only what the files of the run hold. No commit, date, machine or duration: no file holds them, and the
    page must be the same bytes for the same files.
    """
    judge, evaluator = hub.describe(models / "judge"), metrics["evaluate/dpo"].get("judge", "")
    elsewhere = [("judge of the evaluation", evaluator)] if evaluator not in ("", judge) else []
    return [
        ("base model", _describe(models / "base", params)),
        *_adapters(models, adapters),
        ("judge", _describe(models / "judge", params)),
        *elsewhere,
        ("data", _sources(params)),
        ("rows", _rows(metrics)),
        ("labelled by", tables.labellers(metrics["data"].get("labelled", {}).get("labelled_by", {}))),
        ("seed", f"{params.seed}, numbers as {params.dtype}"),
    ]


def size(model_dir: Path) -> int | None:
    """The number of weights in a model directory; None if its weights are elsewhere, as those of a pin."""
    files = sorted(model_dir.glob(hub.WEIGHTS))
    return sum(_weights(path, _bits(model_dir)) for path in files) if files else None


def size_in_words(count: int) -> str:
    """A number of parameters with three digits."""
    for unit, name in ((10**9, " billion"), (10**6, " million")):
        if count >= unit:
            return f"{count / unit:.3g}{name} parameters"
    return f"{count:,} parameters"


def _bits(model_dir: Path) -> int | None:
    """The bits per weight of a quantised checkpoint, or None."""
    config = model_dir / "config.json"
    raw = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return (raw.get("quantization_config") or {}).get("bits")


def _weights(path: Path, bits: int | None) -> int:
    """The weights in a file, from its header alone."""
    total = 0
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            count = math.prod(file.get_slice(name).get_shape())
            if name.endswith(PACKED) and bits:
                total += count * WORD_BITS // bits
            elif not name.endswith(PACKING):
                total += count
    return total


def _describe(model_dir: Path, params: Params) -> str:
    pinned, count, bits = hub.read_pin(model_dir), size(model_dir), _bits(model_dir)
    name = f"{pinned['repo']}@{pinned['commit'][:12]}" if pinned else hub.describe(model_dir)
    parts = [name, "" if pinned else label(SOURCES, params.models.sources()[model_dir.name].source)]
    parts += [size_in_words(count) if count else "", f"{bits} bits" if bits else ""]
    return ", ".join(filter(None, [*parts, f"licence {hub.licence(model_dir)}"]))


def _adapters(models: Path, names: list[str]) -> Facts:
    """The trained models: adapters of the same size, unless a file says differently."""
    by_size: dict[int | None, list[str]] = {}
    for name in names:
        by_size.setdefault(size(models / name), []).append(MODELS[name].name)
    return [
        (", ".join(group), f"LoRA adapters of the base, {size_in_words(count or 0)} each")
        for count, group in by_size.items()
    ]


def _sources(params: Params) -> str:
    sft, preference = _source(params.data.sft), _source(params.data.preference)
    return sft if sft == preference else f"fine-tuning on {sft}; preferences and evaluation on {preference}"


def _source(section: EmbeddedRows | HubRows | SftFile | PreferenceFiles) -> str:
    match section:
        case EmbeddedRows():
            return "the embedded corpus, which code made"
        case HubRows():
            return f"{section.repo}@{section.revision[:12]}"
        case SftFile():
            return f"the file {Path(section.path).name}"
        case PreferenceFiles():
            names = (section.train, section.dev, section.test)
            return f"the files {', '.join(Path(name).name for name in names)}"


def _rows(metrics: dict[str, dict[str, Any]]) -> str:
    outputs = {name: metrics["data"].get(name, {}) for name in OUTPUTS}
    counts = {name: output.get("all", {}).get("kept", 0) for name, output in outputs.items()}
    kinds = outputs["held_out"].get("kinds", {})
    held_out = ", ".join(f"{kind['kept']:,} {name}" for name, kind in kinds.items() if kind["kept"])
    parts = [
        f"{counts['sft']:,} to fine-tune on",
        f"{counts['questions']:,} preference questions, {metrics['pairs'].get('pairs', 0):,} pairs",
        f"{counts['held_out']:,} held-out questions ({held_out})",
        f"{counts['labelled']:,} labelled pairs",
    ]
    return "; ".join(parts)
