"""bench.gpu at a small size on a CPU: every part runs and is computed right; its numbers mean nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from bench import bundle, gpu, gpu_parts, gpu_sizes, gpu_smoke
from medqa import model
from medqa.runtime import presets

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
OPERATIONS = {"sft": 8, "dpo": 10, "generate": 2, "judge": 2}  # per weight and token
# Hides modules from a process and its children, as if they were not installed.
HIDE = """
import os, sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        hidden = name.partition(".")[0] in os.environ["HIDDEN"].split()
        return None if hidden and "_vendor" not in str(spec) else spec  # setuptools brings its own copies
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


def small_bench(work: Path) -> gpu_sizes.Bench:
    params = presets.read("qwen2.5-1.5b", ROOT / presets.FOLDER)
    return gpu_sizes.Bench(gpu_sizes.SMALL, params, work)


def write_models(work: Path) -> None:
    with ThreadPoolExecutor() as pool:
        for task in gpu.write_models(gpu_sizes.SMALL, work, pool):
            task.result()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    work = tmp_path_factory.mktemp("gpu")
    write_models(work)
    bench = small_bench(work)
    ours = {part: gpu.measure(part, bench) for part in gpu.PARTS}
    return ours | {part: measure(bench) for part, measure in gpu.PEERS.items()}


def test_every_part_is_measured(results: dict) -> None:
    assert list(results) == ["sft", "dpo", "generate", "judge", "trl-sft", "trl-dpo"]
    assert all(results[peer]["seconds_per_row"] > 0 for peer in gpu.PEERS)
    for part in gpu.PARTS:
        row = results[part]
        per_token = OPERATIONS[part] * gpu_sizes.SMALL.base.parameters()
        assert row["share_of_floor"] == pytest.approx(
            per_token * row["tokens_per_second"] / row["product_rate"]
        )
        assert row["peak_gb"] > 0
        assert row["hours_for_all"] == pytest.approx(109_353 / row["questions_per_second"] / 3600)
        assert part in ("sft", "dpo") or row["over_plain"] > 0
    rows = results["generate"]
    assert rows["tokens_per_second"] == pytest.approx(
        rows["questions_per_second"] * 2 * gpu_sizes.SMALL.new_tokens
    )


def test_the_table_says_that_a_small_trial_means_nothing(results: dict) -> None:
    lines = gpu.table(results, {}, gpu.where(small=True)).splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == list(gpu.PARTS)
    assert "says nothing about real sizes or a GPU" in lines[-1]


def test_training_rows_have_full_length(tmp_path: Path) -> None:
    write_models(tmp_path)
    bench, length = small_bench(tmp_path), gpu_sizes.SMALL.length
    tok = model.tokenizer(tmp_path / "base")
    texts = [bench.text(number, length) for number in range(3)]
    assert len(set(texts)) == 3
    assert all(len(tok(text).input_ids) >= length for text in texts)


def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    if model.device() != "cpu":
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no GPU is at hand" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_the_missed_targets_are_named() -> None:
    reached = {"share_of_floor": 0.5, "peak_gb": 5.0, "most_memory_gb": 8.0}
    rows: dict[str, dict] = {part: reached | {"target": target} for part, target in gpu.TARGETS.items()}
    rows["smoke"] = {"checks": {}, "faults": []}
    assert gpu.missed(rows, {}) == []
    rows["sft"] |= {"share_of_floor": 0.3}
    rows["dpo"] |= {"peak_gb": 9.0}
    rows["smoke"]["faults"] = ["layers: 196 quantised layers, 196 left"]
    del rows["generate"], rows["judge"]
    missing = {"generate": "out of time", "judge": "skipped"}
    assert gpu.missed(rows, missing) == [
        "sft 35%",
        "dpo 8 GB",
        "smoke",
        "generate (out of time)",
        "judge (skipped)",
    ]
    lines = gpu.table({"smoke": rows["smoke"]}, {"sft": "failed"}, "").splitlines()
    assert lines[1:3] == ["smoke: layers: 196 quantised layers, 196 left", "missed: smoke, sft (failed)"]


def test_neither_loading_nor_compiling_counts() -> None:
    counts = []

    def train(count: int) -> float:
        counts.append(count)
        return count / 2

    def clock(run: Callable[[], float]) -> tuple[float, None]:
        return 5.0 + run(), None

    size = replace(gpu_sizes.SMALL, few=2, many=6)
    assert gpu_parts.seconds_per_row(train, size, clock) == 0.5
    assert counts == [2, 2, 6]
    with pytest.raises(RuntimeError, match="too busy"):
        gpu_parts.seconds_per_row(lambda count: 0.0, size, clock)


@pytest.fixture(scope="module")
def bundle_only(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which only the packages of the bundle and of the machine can be imported."""
    folder = tmp_path_factory.mktemp("hiding")
    (folder / "sitecustomize.py").write_text(HIDE)
    # setuptools, which every machine with torch has, brings a copy of its own of more_itertools.
    present = bundle.packages().keys() | bundle.closure(bundle.MACHINE).keys() | {"medqa", "more-itertools"}
    hidden = [
        module
        for module, packages in packages_distributions().items()
        if not {canonicalize_name(package) for package in packages} & present
    ]
    return os.environ | {"PYTHONPATH": str(folder), "HIDDEN": " ".join(hidden)}


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, bundle_only: dict[str, str]) -> tuple[str, dict]:
    """The smoke test run as a user would on a machine with the bundle: its output and its JSON."""
    out = tmp_path_factory.mktemp("smoke") / "gpu.json"
    command = [sys.executable, "-m", "bench.gpu", "--small", "--smoke", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=bundle_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout, json.loads(out.read_text())


@pytest.mark.parametrize("name", ["dvc", "rensa", "pytest"])
def test_what_the_machine_lacks_cannot_be_imported(bundle_only: dict[str, str], name: str) -> None:
    code = [sys.executable, "-c", f"import yaml, {name}"]
    done = subprocess.run(code, cwd=ROOT, env=bundle_only, capture_output=True, text=True)
    assert f"No module named '{name}'" in done.stderr


def test_the_smoke_test_passes_with_the_packages_of_the_bundle(smoke_run: tuple) -> None:
    output, written = smoke_run
    assert "smoke: passed" in output and "missed: nothing" in output
    assert list(written["parts"]) == ["cpu", "smoke"] and written["missing"] == {}
    checks = written["parts"]["smoke"]["checks"]
    assert list(checks) == ["losses", "layers", "sft", "dpo", "generate", "judge"]
    assert all(share <= gpu_smoke.TOLERANCE for share in checks["losses"]["loss_differences"].values())
    assert checks["layers"]["replaced"] == 7 * gpu_sizes.SMALL.base.layers
    assert all(0 < check["peak_gb"] < 8 for check in checks.values())


def test_an_adapter_that_does_not_learn_would_show(smoke_run: tuple) -> None:
    losses = smoke_run[1]["parts"]["cpu"]
    assert list(losses) == ["sft", "sft on quantised layers", "dpo"]
    assert all(len(steps) == gpu_smoke.STEPS for steps in losses.values())
    frozen = {run: [steps[0]] * len(steps) for run, steps in losses.items()}
    assert min(gpu_smoke.differences(frozen, losses).values()) > 5 * gpu_smoke.TOLERANCE


def test_a_check_that_fails_ends_none_of_the_others(tmp_path: Path) -> None:
    def fails(bench: gpu_sizes.Bench) -> dict[str, Any]:
        raise RuntimeError("no kernel image")

    checks = {"first": fails, "second": lambda bench: {"tokens": 3, "faults": ["too few"]}}
    result = gpu_smoke.smoke(small_bench(tmp_path), checks, peak=lambda: 9.0)
    assert result["checks"] == {"second": {"tokens": 3, "peak_gb": 9.0}}
    assert result["faults"] == [
        "first: RuntimeError('no kernel image')",
        "second: too few",
        "second: 9.0 GB, more than 8",
    ]


def test_layers_that_stay_quantised_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path)
    bench, load = small_bench(tmp_path), model.load
    monkeypatch.setattr(model, "load", lambda base, dtype, dequantised=False: load(base, dtype))
    assert gpu_smoke.CHECKS["layers"](bench)["faults"] == [
        "14 quantised layers, 14 left when dequantised; expected 14 and 0"
    ]


def test_what_is_done_is_written_before_the_next_part(tmp_path: Path) -> None:
    out, stages = tmp_path / "gpu.json", []

    def run_part(part: str, folder: Path, small: bool, seconds: float) -> dict[str, Any] | str:
        stages.append(json.loads(out.read_text()) if out.exists() else {})
        return {"dpo": "failed", "sft": {"questions_per_second": 3.0}}.get(part, {"seconds_per_row": 2.0})

    results, missing = gpu.run(("sft", "dpo", *gpu.PEERS), True, 1, out, run_part)
    assert [list(stage.get("parts", {})) for stage in stages] == [[], ["sft"], ["sft"], ["sft", "trl-sft"]]
    assert stages[2]["missing"] == {"dpo": "failed"} == missing
    assert json.loads(out.read_text())["parts"] == results
    assert results["sft"] == {"questions_per_second": 3.0, "over_trl": 6.0}


def test_parts_end_at_the_deadline(tmp_path: Path) -> None:
    assert gpu.run_part("judge", tmp_path, True, 0) == "skipped"
    assert gpu.run_part("judge", tmp_path, True, 0.5) == "out of time"
    assert gpu.run_part("judge", tmp_path, True, 120) == "failed"  # there is no model
    out = tmp_path / "gpu.json"
    assert gpu.run(tuple(gpu.PARTS), True, 0, out) == ({}, dict.fromkeys(gpu.PARTS, "skipped"))
    assert json.loads(out.read_text())["missing"] == dict.fromkeys(gpu.PARTS, "skipped")
