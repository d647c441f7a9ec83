"""bench.processors: rows per run and per set of instructions, and what limits the instructions."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bench import checkout, processors
from bench.experiments import Experiment

PLACEBO = {"token_f1_gain": 0.05, "token_f1_gain_low": 0.02, "token_f1_gain_high": 0.08}


def experiment(instructions: str, seed: int, gain: float) -> Experiment:
    """A finished run of two questions, whose scores of DPO are those of SFT and the gain."""
    summary = {"score_base": 0.2, "score_sft": 0.5, "score_dpo": 0.5 + gain}
    gains = {name: np.array([gain, gain]) for name in processors.MEASURES}
    measured = {"summary": summary, "compare": {"verdict": "improved", "dpo_over_placebo": PLACEBO}}
    return Experiment(f"{processors.PREFIX}{instructions}-seed{seed}", {"seed": seed}, measured, gains)


def test_the_table_has_a_row_per_run_and_one_per_set_of_instructions() -> None:
    runs = [experiment("AVX2", 0, 0.1), experiment("AVX2", 1, 0.3), experiment("AVX512", 0, 0.2)]
    rows = processors.summarize(runs)
    assert [(row["instructions"], row["seed"]) for row in rows] == [
        *(("AVX2", seed) for seed in ("0", "1", "all")),
        *(("AVX512", seed) for seed in ("0", "all")),
    ]
    assert [row["score_gain"] for row in rows] == pytest.approx([0.1, 0.3, 0.2, 0.2, 0.2])
    assert rows[2]["dpo"] == pytest.approx(0.7) and rows[2]["score_gain_low"] == pytest.approx(0.1)
    lines = processors.page(rows).splitlines()
    assert lines[-7].startswith("| AVX2 | 0 | 0.200 | 0.500 | 0.600 | +0.100 (+0.100 to +0.100) |")
    assert lines[-7].endswith("| +0.050 (+0.020 to +0.080) | improved |")
    assert lines[-1].endswith("differ by at most 0.000, 0.000 and 0.100.")


@pytest.mark.parametrize("instructions", processors.INSTRUCTIONS)
def test_torch_is_limited_to_the_instructions(instructions: str) -> None:
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    command = [sys.executable, "-c", code]
    environment = os.environ | processors.INSTRUCTIONS[instructions]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "AVX2" or instructions == "AVX512"


def test_the_page_is_made_from_the_json() -> None:
    docs = checkout.ROOT / "docs"
    rows = json.loads((docs / "processors.json").read_text(encoding="utf-8"))
    assert (docs / "processors.md").read_text(encoding="utf-8") == processors.page(rows)
