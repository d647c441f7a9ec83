"""Stages that ask several models hold one at a time: 8 GB do not take the policy and the judge at once."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, embed

from medqa import encoder, engines, jsonl, records
from stages import agreement, evaluate

ROOT = Path(__file__).parent.parent


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The models in memory whenever one is asked; the stages run from the repository, on fake models."""
    moments: list[list[str]] = []
    loaded: set[str] = set()

    class Loaded(FakeEngine):
        def __init__(self, name: str):
            super().__init__()
            self.name = name
            loaded.add(name)

        def close(self) -> None:
            loaded.remove(self.name)

        def _each(self, *arguments: Any) -> Any:
            moments.append(sorted(loaded))
            return super()._each(*arguments)

    def embed_alone(_: Path, texts: Sequence[str]) -> np.ndarray:
        moments.append(sorted({*loaded, "encoder"}))
        return embed(texts)

    monkeypatch.setattr(engines, "load", lambda folder, *_: Loaded(folder.name))
    monkeypatch.setattr(encoder, "embed", embed_alone)
    monkeypatch.chdir(ROOT)
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"weights")
    return moments


def written(folder: Path, record: type, **others: Any) -> Path:
    texts = dict.fromkeys(("question", "reference", "chosen", "rejected"), "Gout.")
    jsonl.write(folder / "rows.jsonl", [record(id=f"q{n}", **texts, **others) for n in (1, 2)])
    return folder / "rows.jsonl"


def test_evaluate_closes_the_policy_before_it_judges(in_memory: list[list[str]], tmp_path: Path) -> None:
    rows = written(tmp_path, records.HeldOut, kind="open", key_points=(), gold="")
    base, out = tmp_path / "base", tmp_path / "out"
    evaluate.main(base, base, rows, out / "answers.jsonl", out / "metrics.json")
    assert in_memory == [["base"], ["base"], ["encoder"], ["judge"]]


def test_agreement_closes_the_base_before_it_judges(in_memory: list[list[str]], tmp_path: Path) -> None:
    rows = written(tmp_path, records.Labelled, label_type="easy")
    outs = [tmp_path / "out" / name for name in ("agreed.jsonl", "attacked.jsonl", "metrics.json")]
    agreement.main(tmp_path / "base", rows, *outs)
    assert in_memory == [["base"], ["encoder"], ["judge"], ["judge"]]


# In a process of its own: what libraries keep of a load they keep of the first one.
CLOSED = """
import sys, weakref
from pathlib import Path
from medqa import engines, prompts
from medqa.engines import Request
from medqa.runtime.params import read_params
compute = read_params().compute.model_copy(update={"row_cache": False})
request = Request("q", prompts.ask("What causes gout?"), answer="It is age.")
with engines.load(Path(sys.argv[1]), None, "float32", compute, 8) as engine:
    list(engine.answer_logprobs([request]))
    weights = [weakref.ref(weight) for weight in engine.engine.model.parameters()]
print(len(weights), sum(weight() is not None for weight in weights))
"""


def test_a_quantised_model_that_is_closed_leaves_no_weight(tiny_base: Path) -> None:
    command = [sys.executable, "-c", CLOSED, str(tiny_base)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    weights, alive = map(int, output.splitlines()[-1].split())
    assert weights > 20 and alive == 0


# 400 MB in pieces that malloc would keep, and behind them one that stays.
RETURNED = """
from medqa.runtime import environment
environment.set_up()
import psutil, torch
from medqa.engines import Likelihood, Request
from medqa.engines.cached import CachedEngine
class Large:
    def __init__(self):
        self.weights = [torch.ones(5_000_000) for _ in range(20)]
    def answer_logprobs(self, requests):
        yield "q", Likelihood(0.0, 1)
    def close(self):
        pass
with CachedEngine(Large, None, ("model", "model"), [], 0) as engine:
    list(engine.answer_logprobs([Request("q", [])]))
    last = bytearray(1 << 20)
    before = psutil.Process().memory_info().rss
print((before - psutil.Process().memory_info().rss) / 1e6)
"""


def test_what_a_model_took_goes_back_to_the_system() -> None:
    command = [sys.executable, "-c", RETURNED]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(output) > 350  # MB
