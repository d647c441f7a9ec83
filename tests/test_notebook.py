"""examples/medqa.ipynb runs from its first cell to its last, and is committed without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CELLS = json.loads((ROOT / "examples" / "medqa.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_has_no_outputs() -> None:
    assert [cell for cell in CELLS if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.parametrize("number", range(len(CODE)))
def test_each_cell_is_python(number: int) -> None:
    compile(CODE[number], f"cell {number}", "exec")


@pytest.mark.slow
def test_it_runs_and_training_helps(tmp_path: Path) -> None:
    """In plain Python: what a notebook shows of a cell, its last expression, is evaluated and not printed."""
    script = tmp_path / "notebook.py"
    check = "import json\nprint(json.dumps({name: result['score'] for name, result in results.items()}))"
    script.write_text("\n\n".join([*CODE, check]), encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(ROOT), "MEDQA_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)}
    env |= {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["base"] < scores["SFT"] < scores["DPO"], done.stdout
