"""`dvc repro` killed at random moments, orphans left behind: only `make soak` runs it, it takes a whole pipeline."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_pipeline import dvc, project  # noqa: F401 - the fixture

KILLS = int(os.environ.get("MEDQA_SOAK", "0"))
pytestmark = pytest.mark.skipif(not KILLS, reason="make soak runs it")
OUTPUTS = {
    "generate": ["data/candidates.jsonl", "metrics/generate.json"],
    "judge": ["data/judged.jsonl", "metrics/judge.json", "metrics/curves/scores.tsv"],
    "evaluate@dpo": ["data/answers/dpo.jsonl", "metrics/evaluate/dpo.json"],
}


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_killed_repro_is_taken_up_by_the_next(project: Path, stage: str) -> None:  # noqa: F811
    rng = random.Random(stage)
    expected = [(project / name).read_bytes() for name in OUTPUTS[stage]]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MEDQA_", "GIT_"))}
    again = ["repro", "--force", "--single-item", "--no-run-cache", stage]
    for number in range(KILLS):
        if number % 2 == 0:
            shutil.rmtree(project / ".medqa", ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", *again],
            cwd=project,
            env=env | {"PATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(1, 15))
        if process.poll() is None:
            # Half of the time only dvc dies, and its stage writes on.
            (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        dvc(project, *again)
        assert [(project / name).read_bytes() for name in OUTPUTS[stage]] == expected
        assert "Running stage" not in dvc(project, "repro", "--dry")
