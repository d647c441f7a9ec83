"""Stages that ask two models never hold both: 8 GB do not take the policy and the judge at once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine

from medqa import engines, jsonl, records
from stages import agreement, evaluate

ROOT = Path(__file__).parent.parent


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The models that are in memory whenever one is asked; the stages run from the repository, on fake
    models.
    """
    seen: list[list[str]] = []
    loaded: dict[str, Any] = {}

    class Held(FakeEngine):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def free(self) -> None:
            loaded.pop(self.name, None)

        def __getattribute__(self, name: str) -> Any:
            if name in ("generate", "label_probabilities", "answer_logprobs"):
                loaded[self.name] = self
                seen.append(sorted(loaded))
            return super().__getattribute__(name)

    monkeypatch.setattr(engines, "load", lambda folder, *_: Held(folder.name))
    monkeypatch.chdir(ROOT)
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"weights")
    return seen


def written(folder: Path, record: type, **others: Any) -> Path:
    texts = dict.fromkeys(("question", "reference", "chosen", "rejected"), "Gout.")
    jsonl.write(folder / "rows.jsonl", [record(id=f"q{n}", **texts, **others) for n in (1, 2)])
    return folder / "rows.jsonl"


def test_evaluate_lets_go_of_the_policy_before_it_judges(held: list[list[str]], tmp_path: Path) -> None:
    rows = written(tmp_path, records.HeldOut, kind="open", key_points=(), gold="")
    base, out = tmp_path / "base", tmp_path / "out"
    evaluate.main(base, base, rows, out / "answers.jsonl", out / "metrics.json")
    assert ["base"] in held and ["judge"] in held and all(len(names) == 1 for names in held)


def test_agreement_lets_go_of_the_base_before_it_judges(held: list[list[str]], tmp_path: Path) -> None:
    rows = written(tmp_path, records.Labelled, label_type="easy")
    outs = [tmp_path / "out" / name for name in ("agreed.jsonl", "attacked.jsonl", "metrics.json")]
    agreement.main(tmp_path / "judge", tmp_path / "base", rows, *outs)
    assert ["base"] in held and ["judge"] in held and all(len(names) == 1 for names in held)


# In a process of its own: what libraries keep of a load they keep of the first one.
FREED = """
import sys, weakref
from pathlib import Path
from medqa import engines, prompts
from medqa.runtime.params import read_params
compute = read_params().compute.model_copy(update={"row_cache": False})
engine = engines.load(Path(sys.argv[1]), None, "float32", compute, 8)
engine.answer_logprobs([prompts.ask("What causes gout?")], ["It is age."])
weights = [weakref.ref(weight) for weight in engine.engine.model.parameters()]
engine.free()
print(len(weights), sum(weight() is not None for weight in weights))
"""


def test_a_quantised_model_that_is_let_go_leaves_no_weight(tiny_base: Path) -> None:
    command = [sys.executable, "-c", FREED, str(tiny_base)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    weights, alive = map(int, told.splitlines()[-1].split())
    assert weights > 20 and alive == 0


# 400 MB in pieces that malloc would keep, and behind them one that stays.
GIVEN_BACK = """
from medqa.runtime import environment
environment.set_up()
import psutil, torch
from medqa.engines.cached import CachedEngine
engine = CachedEngine(lambda: None, None, ("model", "model"), [], 1)
engine.engine = [torch.ones(5_000_000) for _ in range(20)]
last = bytearray(1 << 20)
held = psutil.Process().memory_info().rss
engine.free()
print((held - psutil.Process().memory_info().rss) / 1e6)
"""


def test_what_a_model_took_goes_back_to_the_system() -> None:
    told = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(told.stdout) > 350
