"""Losses and gradients that break in training: the stage ends within the step; plain TRL goes on."""

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
from training_jobs import EXAMPLES, LORA, sft_job

from medqa import jsonl, model, prompts, sft
from medqa.runtime.errors import UserError
from medqa.training import checkpoints, fine_tuning

pytestmark = pytest.mark.slow

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


def break_fourth_step(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> list[int]:
    """Change the loss of the fourth step; the list takes the step of each micro-batch."""
    from trl import SFTTrainer

    compute_loss, steps = SFTTrainer.compute_loss, []

    def broken_loss(self: Any, net: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        steps.append(self.state.global_step + 1)
        loss = compute_loss(self, net, *args, **kwargs)
        weight = next(weight for weight in net.parameters() if weight.requires_grad)
        return fault(loss, weight) if steps[-1] == 4 else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", broken_loss)
    return steps


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_step_is_the_last_and_the_checkpoint_before_it_stays(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    change, message = BROKEN[fault]
    steps = break_fourth_step(monkeypatch, change)
    job = sft_job(tiny_base, tmp_path, minutes=0, epochs=2)
    with pytest.raises(UserError, match=message):
        sft.train(job, EXAMPLES)
    assert steps[-1] == 4 and not job.out.exists() and not job.curve.exists()
    checkpoint = next((tmp_path / "cache" / "checkpoints").glob("*/step-*"))
    assert checkpoint.name == "step-00000003" and checkpoints.latest(checkpoint.parent) == checkpoint
    for file in checkpoint.rglob("*.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(file).values())
    for saved in torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"].values():
        assert all(tensor.isfinite().all() for tensor in saved.values())


def test_plain_trl_hides_it(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why we check: with TRL's defaults the same NaN is logged as a loss of 0, and all weights become NaN."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    break_fourth_step(monkeypatch, BROKEN["a NaN in a batch"][0])
    rows = [
        {"prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in EXAMPLES
    ]
    arguments = fine_tuning.arguments(sft_job(tiny_base, tmp_path, epochs=2), len(rows), tmp_path)
    del arguments["logging_nan_inf_filter"]
    trainer = SFTTrainer(
        model=model.load(tiny_base, "float32"),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer(tiny_base),
        peft_config=LoraConfig(
            r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=fine_tuning.TARGETS, task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert trainer.state.global_step == 6 and losses[4:] == [0.0, 0.0]
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert all(weight.isnan().all() for weight in saved.values())


def test_ctrl_c_ends_training_soon_and_names_the_checkpoint(place: Place) -> None:
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
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    output = process.communicate()[1]
    assert process.returncode == 130 and time.monotonic() - interrupted < 5
    step = checkpoints.step_of(next(place.cache.glob("checkpoints/*/step-*")))
    assert f"interrupted; the checkpoint of step {step} is kept" in output and "Traceback" not in output
    assert not (place.folder / "trained").exists()
