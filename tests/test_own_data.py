"""docs/data.md as a user follows it: a table of preferences, `medqa import`, a preset, the pipeline."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import checkout
from medqa.runtime import presets

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SIGNS = ("a swollen toe", "a wheeze at night", "bleeding gums", "bowed legs", "pale skin", "a stiff jaw")
HELP = ("rest and water", "an inhaler", "fruit every day", "sunlight", "iron tablets", "a vaccine")
# Models of the least size, and no download: the base takes the encoder's part.
MODELS = {"vocabulary": 400, "layers": 1, "steps": 20, "batch_size": 8}
TINY: dict[str, Any] = {
    "encoder": "base",
    "generate": {"n": 4, "temperature": 0.3, "max_new_tokens": 12},
    "judge": {"min_mass": 0.0},
    "pairs": {"policy": "reference", "min_margin": 0.0},  # one sound candidate per question is enough
    "control": {"placebo": False},
    "evaluate": {"max_new_tokens": 12, "bootstrap_samples": 100},
    "agreement": {"attacked_pairs": 1, "bootstrap_samples": 100},
}


def write_table(path: Path) -> None:
    """30 questions on maladies that nobody has, each with a good answer and one that a person rejected."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["Question", "Answer", "Worse", "Who"])
        for number in range(30):
            sign, other = SIGNS[number % 6], SIGNS[(number // 6 + 1 + number) % 6]
            malady = f"malady {chr(97 + number % 26) * 2}{number * 7919}"
            answer = f"People with {malady} have {sign} and {other}. {HELP[number % 6].capitalize()} helps."
            lines.writerow([f"What should I know about {malady}?", answer, "It is nothing.", "people"])


def run(folder: Path, *command: str) -> str:
    """Run a module of this interpreter in the folder; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=checkout.environment() | {"PYTHONPATH": str(folder), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shrink(path: Path) -> None:
    """Make a params.yaml of the preset `files` as small as it can be."""
    params = yaml.safe_load(path.read_text())
    del params["models"]["encoder"]
    params["models"]["base"] |= MODELS | {"max_length": 64, "steps": 80}
    params["models"]["judge"] |= MODELS | {"max_length": 256, "examples": 200}
    for section, values in TINY.items():
        params[section] = params[section] | values if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def test_a_table_of_preferences_becomes_a_report(tmp_path: Path) -> None:
    checkout.copy(tmp_path)
    write_table(tmp_path / "faq.csv")
    columns = ("--question", "Question", "--answer", "Answer", "--rejected", "Worse", "--labelled-by", "Who")
    assert "30 of them sound" in run(tmp_path, "medqa", "import", "faq.csv", *columns)
    assert "Next: dvc repro" in run(tmp_path, "medqa", "preset", "files")
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == presets.read("files", ROOT / "presets")
    shrink(tmp_path / "params.yaml")
    checkout.commit(tmp_path)
    output = run(tmp_path, "dvc", "repro")
    assert "Traceback" not in output
    counts = "data: 15 SFT rows, 9 questions, 6 held-out questions, 6 labelled pairs (labelled by: people)"
    assert counts in output
    pairs = json.loads((tmp_path / "metrics" / "pairs.json").read_text())
    assert pairs["questions"] == 9 and pairs["pairs"] >= 1
    page = (tmp_path / "report" / "index.html").read_text()
    assert "people (6)" in page and "malady" in page and os.fspath(tmp_path) not in page
    assert ">>>" in run(tmp_path, "medqa", "preview")
