"""A real limit on the memory of a process: batches are halved, and the texts and scores are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_place import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import json, resource, sys
from pathlib import Path
from medqa.runtime.environment import set_up
set_up()
from medqa import model, prompts
from medqa.engines import Request, Sampling
from medqa.engines.transformers_engine import TransformersEngine
net, tok = model.load_merged(Path(sys.argv[1]), "float32"), model.tokenizer(Path(sys.argv[1]))
engine = TransformersEngine(net, tok, batch_size=256)
rows = [Request(f"q{n}", prompts.ask(f"What is gout {n}? " * 40), n) for n in range(256)]
sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=2)
list(engine.generate(rows[:1], sampling)), list(engine.label_probabilities(rows[:1], prompts.LABELS))
if sys.argv[2] != "0":
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(sys.argv[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
texts = sorted((id, row.text) for id, row in engine.generate(rows, sampling))
halved = engine.divisor
labels = sorted((id, row.probabilities) for id, row in engine.label_probabilities(rows, prompts.LABELS))
print(json.dumps([halved, texts, labels]))
"""


def run(base: Path, megabytes: int) -> list:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, base, str(megabytes)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_limit_on_the_process_halves_batches_and_changes_nothing(tiny_base: Path) -> None:
    free, limited = run(tiny_base, 0), run(tiny_base, 400)
    assert free[0] == 1 and limited[0] > 1
    assert limited[1:] == free[1:]
