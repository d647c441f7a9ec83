"""The model directory of each source of params.yaml: pinned, copied, converted, tuned or trained."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medqa import chat, hub, model, prompts
from medqa.curves import tail_mean
from medqa.miniature import judge_training, scratch_models
from medqa.models import gguf, shipped, tuned_encoder, tuned_judge, wheels
from medqa.runtime.model_sections import (
    AnySource,
    GgufModel,
    HubModel,
    ScratchJudge,
    ScratchModel,
    ShippedModel,
    TunedEncoder,
    TunedJudge,
    WheelEncoder,
)


def make(source: AnySource, corpus: Path, seed: int, out: Path) -> list[float]:
    """Make the model directory `out`; returns the loss of each training step, if any.

    Raises UserError if the Hub, the file or the text cannot be read, or as `chat.detect` does.
    """
    losses, provenance = _make(source, corpus, seed, out)
    if not isinstance(source, WheelEncoder | TunedEncoder):  # they write no text
        chat.write(out, chat.detect(out))
        if system_prompt := prompts.default_system(model.tokenizer(out)):
            provenance["system_prompt"] = system_prompt
    if provenance:
        text = json.dumps(provenance, indent=2) + "\n"
        (out / hub.PROVENANCE).write_text(text, encoding="utf-8")
    return losses


def _make(source: AnySource, corpus: Path, seed: int, out: Path) -> tuple[list[float], dict[str, str]]:
    """Write the model's files; returns the losses and the provenance, where there are any."""
    match source:
        case HubModel():
            hub.pin(source.repo, source.revision, out)
            return [], {}
        case GgufModel():
            return [], gguf.make(source, corpus, seed, out)
        case TunedJudge() | TunedEncoder():
            with tempfile.TemporaryDirectory() as folder:
                start = Path(folder, f"{out.name}.start")
                make(source.start, corpus, seed, start)
                if isinstance(source, TunedEncoder):
                    return tuned_encoder.make(source, start, corpus, seed, out)
                return tuned_judge.make(source, start, corpus, seed, out)
        case ShippedModel():
            return [], shipped.make(source, corpus, out)
        case WheelEncoder():
            return [], wheels.make_encoder(source, out)
        case ScratchJudge():
            return scratch_models.make_judge(source, corpus, seed, out), {}
        case ScratchModel():
            return scratch_models.make_base(source, corpus, seed, out), {}


def describe(out: Path) -> list[str]:
    """A model directory in lines for the screen: its chat format, which an encoder lacks."""
    return chat.read(out).summary_lines() if (out / chat.RECORD).is_file() else []


def headline(result: Mapping[str, Any]) -> str:
    """The metrics of a model directory in words for the screen, without hashes."""
    parts = [str(result[name]) for name in ("repo", "file", "licence") if name in result]
    parts += [f"{result['steps']} steps, loss {result['final_loss']:.3f}"] if "steps" in result else []
    if "validation_accuracy" in result:
        share, count = result["validation_accuracy"], result["validation_examples"]
        parts.append(f"right on {share:.1%} of {count:,} validation examples")
    return ", ".join(parts) or "made here"


def summary(out: Path, losses: Sequence[float]) -> dict[str, Any]:
    """The metrics of a model directory: provenance, last mean loss, a judge's validation accuracy."""
    result: dict[str, Any] = {}
    if pinned := hub.read_pin(out):
        result |= {name: pinned[name] for name in ("repo", "commit")}
        result |= {"licence": hub.licence(out), "files": len(pinned["files"])}
    result |= hub.provenance(out)
    if losses:
        result |= {"steps": len(losses), "final_loss": tail_mean(losses)}
    return result | judge_training.metrics(out)
