"""Numbers that break while training: the stage ends within the step, with what was good; left alone, TRL goes
on.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_place import Place
from safetensors.torch import load_file

from medqa import jsonl, model, prompts, records, sft
from medqa.runtime import sections
from medqa.runtime.errors import UserError
from medqa.training import checkpoints, fine_tuning

EXAMPLES = [
    records.Example(f"e{n}", "open", f"What causes disease {n}?", f"Its causes include {n} bacteria.")
    for n in range(12)
]
PARAMS = sections.SftParams(
    epochs=2,
    learning_rate=0.01,
    batch_size=4,
    micro_batch_size=2,
    max_length=64,
    warmup_share=0,
    activation_checkpointing=False,
    dequantised=True,
    lora=sections.Lora(r=4, alpha=8, dropout=0),
)
BROKEN = {
    "a NaN in a batch": (
        lambda loss, weight: loss * float("nan"),
        r"step 4: loss is nan \(rows e\d+, e\d+\)",
    ),
    "a gradient that overflows": (
        lambda loss, weight: loss + (weight.double().sum() * 0 * 1e200 * 1e200).float(),
        r"step 4: (loss|grad_norm) is nan \(rows e\d+, e\d+",
    ),
    "a gradient of infinity": (
        lambda loss, weight: loss + (weight.abs().sum() * 0).sqrt(),
        r"step 4: grad_norm is (nan|inf) \(rows e\d+, e\d+, e\d+, e\d+\)",
    ),
    "a loss a hundredfold": (
        lambda loss, weight: loss * 1000,
        r"step 4: loss is \d.*, it was .*\(rows e\d+, e\d+",
    ),
}


def breaks(monkeypatch: pytest.MonkeyPatch, how: Callable[[Any, Any], Any]) -> list[int]:
    """Break the loss of the fourth step; the list takes the steps that were worked on."""
    from trl import SFTTrainer

    original, steps = SFTTrainer.compute_loss, []

    def compute_loss(self: Any, net: Any, *given: Any, **named: Any) -> Any:
        steps.append(self.state.global_step + 1)
        loss = original(self, net, *given, **named)
        weight = next(weight for weight in net.parameters() if weight.requires_grad)
        return how(loss, weight) if steps[-1] == 4 else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", compute_loss)
    return steps


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_step_is_the_last_and_the_checkpoint_before_it_stays(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    how, told = BROKEN[fault]
    steps = breaks(monkeypatch, how)
    with pytest.raises(UserError, match=told):
        sft.train(tiny_base, EXAMPLES, PARAMS, "float32", 0, tmp_path / "sft", tmp_path / "sft.tsv", 0)
    assert steps[-1] == 4 and not (tmp_path / "sft").exists() and not (tmp_path / "sft.tsv").exists()
    kept = next((tmp_path / "cache" / "checkpoints").glob("*/step-*"))
    assert kept.name == "step-00000003" and checkpoints.last(kept.parent) == kept
    for file in kept.rglob("*.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(file).values())
    for saved in torch.load(kept / "optimizer.pt", weights_only=True)["state"].values():
        assert all(tensor.isfinite().all() for tensor in saved.values())


def test_trl_left_alone_hides_it(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guards are for: with its defaults the same NaN ends well, logged as a loss of 0, all weights
    NaN.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    breaks(monkeypatch, BROKEN["a NaN in a batch"][0])
    rows = [
        {"prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in EXAMPLES
    ]
    ours = fine_tuning.arguments(PARAMS, len(rows), "float32", 0, tmp_path)
    ours = {name: value for name, value in ours.items() if name != "logging_nan_inf_filter"}
    trainer = SFTTrainer(
        model=model.load(tiny_base, "float32"),
        args=SFTConfig(**ours),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer(tiny_base),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM"),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert trainer.state.global_step == 6 and losses[4:] == [0.0, 0.0]
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert all(weight.isnan().all() for weight in saved.values())


def test_ctrl_c_ends_training_soon_and_says_what_is_kept(place: Place) -> None:
    import yaml

    raw = yaml.safe_load((place.folder / "params.yaml").read_text())
    raw["sft"] |= {"epochs": 500, "batch_size": 4, "micro_batch_size": 4}
    raw["compute"]["checkpoint_minutes"] = 0
    (place.folder / "params.yaml").write_text(yaml.safe_dump(raw))
    jsonl.write(place.folder / "sft.jsonl", EXAMPLES)
    words = "--base base --examples sft.jsonl --out trained --curve c.tsv --metrics m.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sft", *words.split()],
        cwd=place.folder,
        env=place.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(place.cache.glob("checkpoints/*/step-*")):
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130 and time.monotonic() - asked < 5
    kept = next(place.cache.glob("checkpoints/*/step-*"))
    assert (
        f"interrupted; the checkpoint of step {int(kept.name[5:])} is kept" in told
        and "Traceback" not in told
    )
    assert not (place.folder / "trained").exists()
