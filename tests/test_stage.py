"""A stage's errors: one line, a non-zero exit, and nothing half-written."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import errno, os
from pathlib import Path
from medqa import jsonl
from medqa.runtime import stage
from medqa.runtime.errors import UserError

def main(out: Path, fault: str) -> str:
    if fault == "user":
        raise UserError("a value is wrong; mend it")
    if fault == "missing":
        open("data/nothing.jsonl")
    if fault == "full":
        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync = full
    if fault == "interrupt":
        raise KeyboardInterrupt
    if fault == "memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if fault == "bug":
        raise ZeroDivisionError
    jsonl.write_metrics(out, {"answer": 42})
    return "done"

stage.run(main)
"""


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("none", 0, ""),
        ("user", 1, "a value is wrong; mend it"),
        ("missing", 1, "data/nothing.jsonl is not there; rerun the stage that writes it"),
        ("full", 1, "No space left on device"),
        ("interrupt", 130, "interrupted"),
        ("memory", 1, "memory ran out; training takes less with a smaller micro_batch_size"),
        ("bug", 1, "ZeroDivisionError"),
    ],
)
def test_faults(tmp_path: Path, fault: str, code: int, message: str) -> None:
    out = tmp_path / "metrics.json"
    command = [sys.executable, "-c", SCRIPT, "--out", str(out), "--fault", fault]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stderr
    assert ("Traceback" in done.stderr) == (fault == "bug")
    assert out.exists() == (fault == "none")
    assert list(tmp_path.iterdir()) == ([out] if fault == "none" else [])


def test_an_option_that_is_missing_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "stages.pairs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--judged" in done.stderr


@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        ("check", {"torch", "huggingface_hub"}),
        ("pairs", {"torch", "huggingface_hub"}),
        ("compare", {"torch", "huggingface_hub"}),
        ("data", {"torch"}),
        ("report", {"torch"}),
    ],
)
def test_a_stage_loads_no_library_that_it_does_not_need(name: str, unwanted: set[str]) -> None:
    code = f"import sys, stages.{name}; sys.exit(bool({unwanted} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
