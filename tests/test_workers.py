"""Rows computed by several processes: the bytes of one process, and no worker's end loses what is done."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_worker
import pytest
import torch
import yaml
from fake_engine import requests
from fault_place import Place, kill

from medqa.engines import Failure, Request, Sampling, worker_process, workers
from medqa.engines.cached import CachedEngine
from medqa.runtime import row_cache
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)


@pytest.fixture
def engine():
    """Makes engines of two processes, one row per piece; they are ended with the test."""
    made = []

    def make(start=fake_worker.load, batch_size: int = 1) -> workers.Workers:
        made.append(workers.Workers(start, 2, batch_size))
        return made[-1]

    yield make
    for each in made:
        each.close()


def numbered(texts: list[str]) -> list[Request]:
    """A request for each text, with its number as the seed."""
    return [replace(row, seed=n) for n, row in enumerate(requests(texts))]


def ask(engine: Any, texts: list[str]) -> list[str]:
    """The answers in the order of the texts."""
    results = dict(engine.generate(numbered(texts), GREEDY))
    return [results[f"q{n}"].text for n in range(len(texts))]


def share(place: Place, processes: int) -> None:
    path = place.folder / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["compute"]["processes"] = processes
    path.write_text(yaml.safe_dump(raw))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid: int, within: float) -> bool:
    end = time.monotonic() + within
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generate", "judge", "evaluate"])
def test_two_processes_write_the_file_that_one_writes_and_use_its_rows(place: Place, stage: str) -> None:
    one = place.run(stage)
    kept, _ = place.kept()
    share(place, 2)
    # The rows of one process are those of two: none is made again.
    assert place.run(stage) == one and place.kept() == (kept, kept)
    assert place.run(stage, off=True) == one


@pytest.mark.slow
def test_rows_of_two_processes_are_kept_and_those_of_one(place: Place) -> None:
    share(place, 2)
    two = place.run("judge")
    kept, _ = place.kept()
    share(place, 1)
    assert kept > 0 and place.run("judge") == two and place.kept() == (kept, kept)


@pytest.mark.slow
def test_a_worker_killed_in_a_stage_changes_no_byte(place: Place) -> None:
    one = place.run("judge")
    store_file = next((place.cache / "row_cache").glob("*.sqlite"))
    for file in store_file.parent.iterdir():
        file.unlink()
    share(place, 2)
    process = place.start("judge")
    while process.poll() is None and not (pids := children(process.pid)):
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    output = process.communicate()[1]
    assert process.returncode == 0, output
    assert f"process {pids[0]} died (signal 9 ended it" in output
    assert b"".join((place.folder / name).read_bytes() for name in ("out.jsonl", "metrics.json")) == one


def children(pid: int) -> list[int]:
    """The workers of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    pids = [int(child) for child in path.read_text().split()] if path.exists() else []
    return [child for child in pids if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_stage_is_the_end_of_its_workers(place: Place, how: int) -> None:
    share(place, 2)
    process = place.start("generate")
    while process.poll() is None and len(pids := children(process.pid)) < 2:
        time.sleep(0.01)
    time.sleep(0.5)
    sent = time.monotonic()
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
        output = process.communicate()[1]
        assert process.returncode == 130 and "kept in the row cache; dvc repro goes on" in output
        assert "Traceback" not in output
    else:
        kill(process, how)
    assert time.monotonic() - sent < 5
    assert all(gone(pid, within=5) for pid in pids)


def test_a_slow_row_delays_no_other_and_the_models_stay_loaded(engine) -> None:
    both = engine()
    processes = {text.split()[-1] for text in ask(both, ["slow 0.3", "slow 0.31"])}
    texts = ["slow 2", *(f"row {number}" for number in range(6))]
    results = list(both.generate(numbered(texts), GREEDY))
    assert results[-1][0] == "q0" and sorted(id for id, _ in results) == [f"q{n}" for n in range(7)]
    words = {id: row.text.split() for id, row in results}
    assert [" ".join(words[f"q{n}"][:-1]) for n in range(7)] == [
        f"{text} {n}" for n, text in enumerate(texts)
    ]
    assert {each[-1] for each in words.values()} == processes and len(processes) == 2
    assert ask(both, []) == []


def test_one_that_dies_is_replaced_once_and_named_if_it_dies_again(engine, tmp_path, capsys) -> None:
    once, both = tmp_path / "once", engine()
    once.touch()
    assert [text.split()[0] for text in ask(both, ["a", f"die {once}", "b", "c"])] == ["a", "die", "b", "c"]
    assert "signal 9 ended it" in capsys.readouterr().err
    finished = []
    with pytest.raises(UserError, match="died 2 times at the same 1 rows .signal 9 ended it; 9 is what"):
        finished.extend(id for id, _ in both.generate(numbered(["a", "b", "slow 1", "always"]), GREEDY))
    # What was done, or in work beside it, is yielded; the next call goes on with new processes.
    assert sorted(finished) == ["q0", "q1", "q2"]
    assert len(ask(both, ["d", "e"])) == 2


def test_an_idle_one_that_is_killed_is_replaced(engine) -> None:
    both = engine()
    first = {int(text.rsplit(" ", 1)[1]) for text in ask(both, ["slow 0.3", "slow 0.31"])}
    os.kill(min(first), signal.SIGKILL)
    assert gone(min(first), within=5)
    assert len(ask(both, ["a", "b", "c", "d"])) == 4


def test_errors_are_those_of_one_process(engine) -> None:
    results = dict(engine(batch_size=2).generate(requests(["a", "b", "c", "large", "d"]), GREEDY))
    assert results["q3"] == Failure("does not fit") and len(results) == 5
    with pytest.raises(UserError, match="^there is no model; make one$"):
        ask(engine(fake_worker.fail), ["a"])
    with pytest.raises(RuntimeError, match="ZeroDivisionError: here"):
        ask(engine(), ["a", "bug here"])


def test_what_is_yielded_is_kept_and_the_processes_end_with_the_engine(engine, tmp_path: Path) -> None:
    file, both = tmp_path / "rows.sqlite", engine()
    with CachedEngine(lambda: both, row_cache.RowCache(file), ("base", "base"), [], 1) as kept:
        results = dict(kept.generate(requests(["a", "b", "large", "c"]), GREEDY))
    processes = {int(row.text.split()[-1]) for row in results.values() if not isinstance(row, Failure)}
    assert all(gone(pid, within=5) for pid in processes)
    with CachedEngine(lambda: both, row_cache.RowCache(file), ("base", "base"), [], 0) as kept:
        del results["q2"]
        assert (
            dict(kept.generate([row for row in requests(["a", "b", "", "c"]) if row.id != "q2"], GREEDY))
            == results
        )


def test_ctrl_c_ends_within_seconds_what_takes_a_minute(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport fake_worker, test_workers\nfrom medqa.engines import workers\n\n"
        "if __name__ == '__main__':\n"
        "    waiting = [f'wait {name}' for name in sys.argv[1:]]\n"
        "    test_workers.ask(workers.Workers(fake_worker.load, 2, 1), waiting)\n"
    )
    files = [tmp_path / "one", tmp_path / "two"]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, script, *files], env=env, start_new_session=True, stderr=-1, text=True
    )
    while process.poll() is None and not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    sent = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate()[1]
    assert time.monotonic() - sent < 5 and output.count("Traceback") == 1 and "KeyboardInterrupt" in output
    assert all(gone(int(file.read_text()), within=5) for file in files)


@pytest.mark.parametrize(
    ("rows", "processes", "batch_size", "sizes"),
    [
        (0, 2, 4, []),
        (1, 4, 4, [1]),
        (8, 2, 64, [4, 4]),  # few rows: each process has its share
        (32, 2, 2, [4] * 8),
        (20, 2, 4, [4] * 5),  # at least a batch
        (100, 2, 1, [8] * 12 + [4]),  # at most 8 batches
    ],
)
def test_pieces(rows: int, processes: int, batch_size: int, sizes: list[int]) -> None:
    everything = requests([str(number) for number in range(rows)])
    pieces = list(workers.pieces(everything, processes, batch_size))
    assert [len(piece) for piece in pieces] == sizes
    assert [row for piece in pieces for row in piece] == everything


def test_the_samples_of_a_prompt_stay_together() -> None:
    rows = requests([str(number // 3) for number in range(30)])
    assert [len(piece) for piece in workers.pieces(rows, 2, 4)] == [6, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("variable", "devices"),
    [
        (None, ["0", "1", "2", "0"]),
        ("4, 6,7", ["4", "6", "7", "4"]),
        ("GPU-8f5d,MIG-GPU-1/2/0,GPU-77", ["GPU-8f5d", "MIG-GPU-1/2/0", "GPU-77", "GPU-8f5d"]),
    ],
)
def test_each_has_a_gpu_of_its_own_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, devices: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    environments = [worker_process.device_environment(rank) for rank in range(4)]
    assert environments == [{"CUDA_VISIBLE_DEVICES": name} for name in devices]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert worker_process.device_environment(1) == {}
