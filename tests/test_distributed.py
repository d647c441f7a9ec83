"""medqa.runtime.distributed: two processes (gloo) train as one, resume as one, and fail with one message."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from fault_place import ROOT

from medqa import curves, jsonl, records

pytestmark = pytest.mark.slow

EXAMPLES = [
    records.Example(f"e{n:02}", "open", f"What causes gout {n}?", "It is age. " * (1 + n % 3))
    for n in range(32)
]
PAIRS = [records.Pair(row.id, row.question, row.answer, "nothing", 0.9, 0.1) for row in EXAMPLES]
INPUTS = {
    "sft": "--base base --examples examples.jsonl --out sft2 --curve sft.tsv --metrics sft.json",
    "dpo": "--base base --adapter sft --pairs pairs.jsonl --out dpo2 --curve dpo.tsv --metrics dpo.json",
}


def start(models: Path, folder: Path, stage: str, processes: int, **changes: int) -> psutil.Popen:
    """A training stage in a folder of its own, in several processes, with eight rows per step."""
    folder.mkdir(exist_ok=True)
    for name in ("base", "sft"):
        if not (folder / name).exists():
            (folder / name).symlink_to(models / name)
    jsonl.write(folder / "examples.jsonl", EXAMPLES)
    jsonl.write(folder / "pairs.jsonl", PAIRS)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["corpus"] = str(ROOT / raw["corpus"])
    for name in INPUTS:
        raw[name] |= {"batch_size": 8, "micro_batch_size": 4, "epochs": 2, "learning_rate": 0.001} | changes
    raw["compute"] |= {"processes": processes, "checkpoint_minutes": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    env |= {"MEDQA_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{stage}", *INPUTS[stage].split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return psutil.Popen(command, cwd=folder, env=env, start_new_session=True, **pipes)


def run(models: Path, folder: Path, stage: str, processes: int) -> tuple[list[float], bytes]:
    process = start(models, folder, stage, processes)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    weights = (folder / f"{stage}2" / "adapter_model.safetensors").read_bytes()
    return curves.read_curve(folder / f"{stage}.tsv")["loss"], weights


def started(models: Path, folder: Path, stage: str) -> psutil.Popen:
    """A run in two processes that has just written a checkpoint."""
    process = start(models, folder, stage, 2)
    while process.poll() is None and not list((folder / "cache" / "checkpoints").glob("*/step-*")):
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("stage", INPUTS)
def test_two_processes_have_the_losses_of_one_and_resume(models, tmp_path, stage) -> None:
    alone, _ = run(models, tmp_path / "one", stage, 1)
    together, weights = run(models, tmp_path / "two", stage, 2)
    assert together == pytest.approx(alone, abs=1e-3) and len(together) == 8

    killed = started(models, tmp_path / "killed", stage)
    for process in [killed, *killed.children(recursive=True)]:
        process.kill()
    killed.communicate()
    assert not (tmp_path / "killed" / f"{stage}2").exists()
    assert run(models, tmp_path / "killed", stage, 2) == (together, weights)


def test_a_process_that_the_system_kills_is_reported_in_one_line(models, tmp_path) -> None:
    process = started(models, tmp_path / "starved", "sft")
    process.suspend()  # so that the launcher notices only after the other process has lost its peer
    next(child for child in process.children() if child.environ().get("RANK") == "1").kill()
    time.sleep(0.5)
    process.resume()
    output, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("sft: signal 9 ended one of the 2 processes")
    assert not (tmp_path / "starved" / "sft2").exists()


def test_ctrl_c_names_the_checkpoint(models, tmp_path) -> None:
    process = started(models, tmp_path / "stopped", "sft")
    process.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    output, _ = process.communicate()
    assert process.returncode == 130 and time.monotonic() - interrupted < 5, output
    assert "is kept; dvc repro goes on from there" in output and "Traceback" not in output


def test_a_wrong_parameter_is_one_line(models, tmp_path) -> None:
    process = start(models, tmp_path / "wrong", "sft", 2, micro_batch_size=8)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert output.strip().splitlines() == [
        "sft: batch_size = 8 must be a multiple of micro_batch_size = 8 times compute.processes = 2; "
        "lower micro_batch_size"
    ]
