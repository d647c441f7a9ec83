"""medqa recompute: stored metrics come out of the rows, and a cell that does not is found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medqa import jsonl
from medqa.commands import recompute
from medqa.records import Candidate
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
ROWS = [Candidate(f"q#{n}", "q", n, "What?", "So.", "So.", "length" if n == 0 else "stop") for n in range(4)]
GENERATED = {"candidates": 4, "candidates_failed": 0, "candidates_cut_off": 0.25}
LOCK = """
stages:
  generate:
    cmd: python -m stages.generate --out data/candidates.jsonl --metrics metrics/generate.json
    outs:
    - path: data/candidates.jsonl
    - path: metrics/generate.json
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four candidates and the metrics that the stage generate writes of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text(LOCK)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        text.replace("medqa/miniature/corpus", str(ROOT / "medqa" / "miniature" / "corpus"))
    )
    jsonl.write(Path("data/candidates.jsonl"), ROWS)
    jsonl.write_metrics(Path("metrics/generate.json"), GENERATED)
    return tmp_path


def medqa(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "medqa", "recompute", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})


def test_cells_come_out_of_the_rows(project: Path) -> None:
    done = medqa(project, "metrics/generate.json", "candidates_cut_off")
    line = "metrics/generate.json candidates_cut_off: 0.25 stored, 0.25 from data/candidates.jsonl\n"
    assert (done.returncode, done.stdout) == (0, line)
    done = medqa(project)
    assert (done.returncode, done.stdout.count("3 of 3 cells as stored")) == (0, 1)


def test_a_number_that_does_not_come_out_of_the_rows_is_found(project: Path) -> None:
    jsonl.write_metrics(Path("metrics/generate.json"), GENERATED | {"candidates_cut_off": 0.26})
    done = medqa(project)
    assert done.returncode == 1
    assert "candidates_cut_off: 0.26 stored, 0.25 from" in done.stdout
    assert "2 of 3 cells as stored" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("metrics/generate.json", "cut"),
            "has no cell 'cut'; it has candidates, candidates_failed, candidates_cut_off",
        ),
        (("metrics/other.json",), "is no metrics file of dvc.lock; there are metrics/generate.json"),
    ],
)
def test_what_is_not_there_is_one_sentence(project: Path, words: tuple[str, ...], message: str) -> None:
    done = medqa(project, *words)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_without_rows_there_is_one_line_after_what_can_be_recomputed(project: Path) -> None:
    lock = (project / "dvc.lock").read_text()
    command = "python -m stages.pairs --judged data/judged.jsonl"
    pairs = f"  pairs: {{cmd: {command}, outs: [{{path: metrics/pairs.json}}]}}\n"
    (project / "dvc.lock").write_text(f"{lock}{pairs}")
    done = medqa(project)
    assert done.returncode == 1 and "3 of 3 cells as stored" in done.stdout
    assert done.stderr == (
        "medqa recompute: not here: data/judged.jsonl; "
        "dvc pull brings what was pushed, dvc repro makes the rest\n"
    )


def test_the_stage_models_finds_its_model_by_the_name_of_the_stage(project: Path) -> None:
    command = 'python -m stages.models --name "$DVC_STAGE" --out models'
    command += " --curves metrics/curves --metrics metrics/models"
    stage = {"cmd": command, "outs": [{"path": "metrics/models/base.json"}]}
    (project / "dvc.lock").write_text(json.dumps({"stages": {"models@base": stage}}))
    jsonl.write_metrics(Path("metrics/models/base.json"), {"steps": 1, "final_loss": 0.5})
    with jsonl.atomic_write(Path("metrics/curves/base.tsv")) as file:
        file.write("step\tloss\n1\t0.5\n")
    done = medqa(project)
    assert "not here: models/base;" in done.stderr
    (project / "models" / "base").mkdir(parents=True)
    done = medqa(project)
    assert (done.returncode, done.stdout.count("2 of 2 cells as stored, from models@base")) == (0, 1), (
        done.stderr
    )


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\nstages: {}\n", "", "stages: 3\n", "- a\n"])
def test_a_lock_that_cannot_be_read_is_one_sentence(project: Path, text: str) -> None:
    (project / "dvc.lock").write_text(text)
    with pytest.raises(UserError, match=r"^dvc\.lock is no lock file of DVC; git checkout"):
        recompute.metrics_files()


def test_without_a_lock_there_is_one_sentence(project: Path) -> None:
    Path("dvc.lock").unlink()
    with pytest.raises(UserError, match=r"dvc\.lock is not here; run it in the project, after dvc repro"):
        recompute.metrics_files()


def test_nested_cells_have_dotted_names() -> None:
    assert dict(recompute.cells({"a": 1, "b": {"c": {"d": "x"}}})) == {"a": 1, "b.c.d": "x"}
    assert json.loads("{}") == dict(recompute.cells({}))
