"""`dvc repro` killed at random moments, orphans left behind: only `make soak` runs it, it takes a whole
pipeline.
"""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from fault_place import Place
from test_pipeline import AFTER_BETA, dvc, project, ran  # noqa: F401 - the fixture

KILLS = int(os.environ.get("MEDQA_SOAK", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not KILLS, reason="make soak runs it")]
OUTPUTS = {
    "generate": ["data/candidates.jsonl", "metrics/generate.json"],
    "judge": ["data/judged.jsonl", "metrics/judge.json", "metrics/curves/scores.tsv"],
    "evaluate@dpo": ["data/answers/dpo.jsonl", "metrics/evaluate/dpo.json"],
}


def start(project: Path, *arguments: str) -> subprocess.Popen:  # noqa: F811
    """Dvc in a process group of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MEDQA_", "GIT_"))}
    command = [sys.executable, "-m", "dvc", *arguments]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=project, env=env | {"PATH": path}, start_new_session=True, **silent)


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_killed_repro_is_taken_up_by_the_next(project: Path, stage: str) -> None:  # noqa: F811
    rng, place = random.Random(stage), Place(project, project / ".medqa")
    expected = [(project / name).read_bytes() for name in OUTPUTS[stage]]
    raw = yaml.safe_load((project / "params.yaml").read_text())
    raw["compute"] |= {
        "generate_batch_size": 1,
        "judge_batch_size": 1,
    }  # many chunks: a kill falls between two
    (project / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    again = ["repro", "--force", "--single-item", "--no-run-cache", stage]
    shutil.rmtree(place.cache)
    started = time.monotonic()
    dvc(project, *again)
    took, total = time.monotonic() - started, place.kept()[0]
    midway = 0
    for number in range(KILLS):
        shutil.rmtree(place.cache)
        process = start(project, *again)
        if number % 4 < 2:
            place.wait_for(rng.randrange(1, total), process)
        else:
            time.sleep(rng.uniform(0, took))  # also before the first row, and while dvc takes in the outputs
        if process.poll() is None:
            # Half of the time only dvc dies, and its stage writes on.
            (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        kept, used = place.kept()
        midway += 0 < kept < total
        dvc(project, *again)
        rows, hits = place.kept()
        assert rows == total and hits - used >= kept, "what was kept was not used"
        assert [(project / name).read_bytes() for name in OUTPUTS[stage]] == expected
        assert not ran(dvc(project, "repro", "--dry"))
    print(
        f"{stage}: {KILLS} kills within {took:.0f} s, {midway} between the first and the last of {total} rows"
    )
    assert midway >= KILLS // 4


def test_a_queued_sweep_asks_neither_base_nor_sft_again(project: Path) -> None:  # noqa: F811
    """With an empty store too; what the store then holds is of the DPO models and of the judge."""
    place = Place(project, project / ".medqa")
    shutil.rmtree(place.cache, ignore_errors=True)
    dvc(project, "exp", "run", "--queue", "-S", "dpo.beta=0.2,0.3")
    dvc(project, "exp", "run", "--run-all")
    names = re.findall(r"^[0-9a-f]{7}\s+(\S+) .*Success", dvc(project, "queue", "status"), re.MULTILINE)
    assert len(names) == 2
    for name in names:
        assert ran(dvc(project, "queue", "logs", name)) == AFTER_BETA
    with closing(sqlite3.connect(next((place.cache / "row_cache").glob("*.sqlite")))) as db:
        assert {name for (name,) in db.execute("SELECT name FROM models")} == {
            "base + dpo",
            "base + placebo",
            "judge",
        }
