"""A finished run of tiny models in a folder: base, two random adapters, a judge, and held-out rows."""

import json
import shutil
from pathlib import Path

import torch
import yaml

from medqa import jsonl, model, models
from medqa.records import Example, HeldOut
from medqa.runtime.params import read_params
from medqa.training import fine_tuning

ROOT = Path(__file__).parent.parent
NAMES = ("gout", "asthma", "measles", "scurvy", "malaria", "flu", "mumps", "anaemia", "eczema", "angina")
ATTRIBUTES = (
    "symptoms",
    "causes",
    "signs",
    "risks",
    "tests",
    "treatments",
    "dangers",
    "marks",
    "kinds",
    "signals",
)
SHAKE = 0.07  # of an adapter's random weights: enough to change answers


def held_out(count: int = 10) -> list[HeldOut]:
    """Open questions with references."""
    questions = [f"What are the {attribute} of {name}?" for attribute in ATTRIBUTES for name in NAMES]
    return [
        HeldOut(
            id=f"q{number:03}",
            kind="open",
            question=question,
            reference="Fever and cough. A rash.",
            key_points=(),
            gold="",
            chosen="Fever and cough.",
            rejected="A rash.",
        )
        for number, question in enumerate(questions[:count])
    ]


def write(folder: Path, rows: int = 10) -> None:
    """Write params.yaml, models/ (the shipped ones), data/ and metrics/ of a run."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["corpus"] = str(ROOT / raw["corpus"])
    raw["evaluate"]["max_new_tokens"] = 16
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    for name, source in read_params(folder / "params.yaml").models.sources().items():
        models.make(source, Path(raw["corpus"]), 0, folder / "models" / name)
    for number, name in enumerate(("sft", "dpo")):
        write_adapter(folder / "models" / "base", folder / "models" / name, seed=number)
    jsonl.write(folder / "data" / "heldout.jsonl", held_out(rows))
    examples = [Example(row.id, "open", row.question, row.reference) for row in held_out(rows)]
    jsonl.write(folder / "data" / "sft.jsonl", examples)
    shutil.copytree(ROOT / "metrics", folder / "metrics")


def write_adapter(base: Path, out: Path, seed: int) -> None:
    """A LoRA adapter of random weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM")
    adapted = get_peft_model(model.load(base, "float32"), lora)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, SHAKE)
    adapted.save_pretrained(out)
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
