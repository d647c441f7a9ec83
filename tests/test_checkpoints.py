"""Checkpoints: an interrupted run ends as an undisturbed one, and another run never takes its checkpoint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from training_jobs import EXAMPLES, LORA, PAIRS, dpo_job, sft_job

from medqa import dpo, sft
from medqa.training import checkpoints

ROOT = Path(__file__).parent.parent


def train(stage: str, base: Path, adapter: Path, folder: Path, **changes: float) -> None:
    """Six steps with a checkpoint after each; dropout, so that the random state matters."""
    if stage == "sft":
        lora = LORA | {"dropout": 0.2}
        sft.train(sft_job(base, folder, minutes=0, epochs=2, lora=lora, **changes), EXAMPLES)
    else:
        dpo.train(dpo_job(base, folder, minutes=0, epochs=2, sft_weight=0.1, **changes), adapter, PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_an_interrupted_run_ends_with_the_bytes_of_an_undisturbed_one(
    stage: str, tiny_base: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    adapter, folder = models / "sft", tmp_path / "cache" / "checkpoints"
    train(stage, tiny_base, adapter, tmp_path / "undisturbed")
    training_step = transformers.Trainer.training_step
    steps: list[int] = []  # of each micro-batch
    failing = [1, 2, 3, 4]

    def failing_step(self, *args, **kwargs):
        step = self.state.global_step
        steps.append(step)
        # In the middle of a step: its first micro-batch is done, its second is not.
        if step in failing and steps.count(step) == 2:
            failing.remove(step)
            raise ZeroDivisionError
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", failing_step)
    while failing:
        with pytest.raises(ZeroDivisionError):
            train(stage, tiny_base, adapter, tmp_path / "interrupted")
        assert len(list(folder.glob("*/step-*"))) == 1
    steps.clear()
    # A run with other parameters starts from the beginning.
    train(stage, tiny_base, adapter, tmp_path / "other", learning_rate=0.02)
    assert steps[0] == 0
    steps.clear()
    train(stage, tiny_base, adapter, tmp_path / "interrupted")
    assert steps == [4, 4, 5, 5]
    for name in (f"{stage}/adapter_config.json", f"{stage}/adapter_model.safetensors", f"{stage}.tsv"):
        resumed, undisturbed = (tmp_path / run / name for run in ("interrupted", "undisturbed"))
        assert resumed.read_bytes() == undisturbed.read_bytes(), name
    assert not list(folder.iterdir())


def test_a_fingerprint_is_of_all_that_training_depends_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    runs = [
        ([{"epochs": 1}, "float32"], EXAMPLES, [tmp_path / "a"]),
        ([{"epochs": 2}, "float32"], EXAMPLES, [tmp_path / "a"]),
        ([{"epochs": 1}, "bfloat16"], EXAMPLES, [tmp_path / "a"]),
        ([{"epochs": 1}, "float32"], EXAMPLES[::-1], [tmp_path / "a"]),
        ([{"epochs": 1}, "float32"], EXAMPLES, [tmp_path / "b"]),
    ]
    assert len({checkpoints.fingerprint(*run) for run in runs}) == len(runs)
    (tmp_path / "a").write_text("b")
    assert checkpoints.fingerprint(*runs[0]) == checkpoints.fingerprint(*runs[-1])


CHANGED_BY_AN_EDIT = """
import json, sys
from pathlib import Path
import stages.{stage}
from medqa.training import checkpoints

before, changed = checkpoints.code_hashes(), {{}}
for path in sorted(Path("medqa").rglob("*.*")):
    text = path.read_bytes()
    path.write_bytes(text + b"#")
    after = checkpoints.code_hashes()
    changed[str(path)] = [name for name in before if before[name] != after[name]]
    path.write_bytes(text)
print(json.dumps(changed))
"""


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_code_of_a_fingerprint_is_what_dvc_yaml_names(stage: str, tmp_path: Path) -> None:
    """An edit of a file that the stage depends on changes the fingerprint; one of the runtime does not."""
    for name in ("medqa", "stages"):
        ignore = shutil.ignore_patterns("__pycache__", "corpus")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    script = CHANGED_BY_AN_EDIT.format(stage=stage)
    done = subprocess.run([sys.executable, "-Bc", script], cwd=tmp_path, capture_output=True, check=True)
    edits = json.loads(done.stdout)
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    code = {dep for dep in deps if dep.startswith("medqa/")}
    needed = {path for path in edits if path in code or any(path.startswith(f"{dep}/") for dep in code)}
    changing = {path for path, changed in edits.items() if changed}
    assert needed <= changing and not any(path.startswith("medqa/runtime/") for path in changing)


def test_a_checkpoint_is_complete_or_absent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for step in (1, 2):
        written = tmp_path / "work" / "checkpoint"
        (written / "ref").mkdir(parents=True)
        (written / "ref" / "weights").write_bytes(bytes(1000))
        checkpoints.store(written, tmp_path, step)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoints.step_of(checkpoint) == 2
    (checkpoint / "ref" / "weights").write_bytes(bytes(999) + b"1")
    assert checkpoints.latest(tmp_path) is None and not checkpoint.exists()
    assert "is damaged; it is dropped" in capsys.readouterr().err
