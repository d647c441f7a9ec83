"""bench.gpu at a small size on a CPU: every part runs and is counted right; what it measures there means nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench import gpu
from medqa import model

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    work = tmp_path_factory.mktemp("gpu")
    gpu.prepare(gpu.SMALL, work)
    given = yaml.safe_load((ROOT / "presets" / "qwen2.5-1.5b.yaml").read_text())
    return {part: gpu.measured(part, gpu.Bench(gpu.SMALL, given, work)) for part in gpu.PARTS}


def test_every_part_is_measured(results: dict) -> None:
    assert list(results) == ["sft", "dpo", "generate", "judge"]
    for part, row in results.items():
        parameters = gpu.SMALL.base.parameters()
        needed = {"sft": 8, "dpo": 10, "generate": 2, "judge": 2}[part] * parameters * row["tokens_per_second"]
        assert row["share_of_floor"] == pytest.approx(needed / row["product_rate"])
        assert row["peak_gb"] > 0
        assert row["hours_for_all"] == pytest.approx(109_353 / row["questions_per_second"] / 3600)
        assert row["over_trl" if part in ("sft", "dpo") else "over_plain"] > 0
    rows = results["generate"]
    assert rows["tokens_per_second"] == pytest.approx(rows["questions_per_second"] * 2 * gpu.SMALL.new_tokens)


def test_the_table_says_that_a_small_trial_is_none(results: dict) -> None:
    told = gpu.table(results, gpu.where(small=True)).splitlines()
    assert [line.split()[0] for line in told[1:-2]] == list(gpu.PARTS)
    assert "says nothing about real sizes or a GPU" in told[-1]


def test_training_rows_have_full_length(tmp_path: Path) -> None:
    bench = gpu.Bench(gpu.SMALL, {}, tmp_path)
    gpu.prepare(gpu.SMALL, tmp_path)
    tok = model.tokenizer(tmp_path / "base")
    texts = [bench.text(number, gpu.SMALL.length) for number in range(3)]
    assert len(set(texts)) == 3
    assert all(len(tok(text).input_ids) >= gpu.SMALL.length for text in texts)


def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    if model.device() != "cpu":
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no GPU is at hand" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_what_is_missed_is_named() -> None:
    reached = {"share_of_floor": 0.5, "peak_gb": 5.0, "most_memory_gb": 8.0}
    rows = {part: reached | {"target": target} for part, target in gpu.TARGETS.items()}
    assert gpu.missed(rows) == []
    rows["sft"] |= {"share_of_floor": 0.3}
    rows["dpo"] |= {"peak_gb": 9.0}
    assert gpu.missed({part: row for part, row in rows.items() if part != "judge"}) == [
        "sft 35%",
        "dpo 8 GB",
        "judge (failed)",
    ]
