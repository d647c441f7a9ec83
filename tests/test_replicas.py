"""Rows computed by replicas: the answers of one process, and no replica's end loses what is done."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_replica
import psutil
import pytest
from cluster_nodes import ended, running
from fake_engine import requests
from fault_place import ROOT, Place

from medqa import prompts
from medqa.engines import Failure, Request, Sampling
from medqa.engines.cached import CachedEngine
from medqa.engines.replica import ModelFolder, Replica
from medqa.engines.replicas import Replicas
from medqa.engines.transformers_engine import TransformersEngine
from medqa.runtime import cluster, hashing, row_cache, transfer
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params
from medqa.runtime.progress import Bar

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)
PYTHONPATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
COMPUTE = read_params(ROOT / "params.yaml").compute.model_copy(
    update={"cluster": "local", "processes": 2, "process_cores": 1, "process_gpus": 0.0}
)


@pytest.fixture(scope="module")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of this machine, which all tests here share; its folder for work in progress."""
    cache = tmp_path_factory.mktemp("node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.setenv("MEDQA_CACHE", str(cache))
        cluster.connect(COMPUTE)
    yield cache
    cluster.disconnect()


@pytest.fixture
def engine(local_cluster: Path) -> Iterator[Callable[..., Replicas]]:
    """Makes engines of two replicas, one row per batch; they end with the test."""
    made = []

    def make(start=fake_replica.load, folders=None, batch_size: int = 1, patience=120, **changes) -> Replicas:
        for each in made:
            each.close()  # its cores are free then
        compute = COMPUTE.model_copy(update=changes)
        made.append(Replicas(start, folders or {}, compute, batch_size, patience))
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


@pytest.mark.slow
def test_a_slow_row_delays_no_other_and_the_models_stay_loaded(engine) -> None:
    both = engine()
    processes: set[str] = set()
    for attempt in range(10):  # on a busy machine the second one may be ready late
        if len(processes) < 2:
            processes |= {text.split()[-1] for text in ask(both, [f"slow 1.{attempt}", f"slow 1.{attempt}1"])}
    texts = ["slow 2", *(f"row {number}" for number in range(6))]
    results = list(both.generate(numbered(texts), GREEDY))
    assert results[-1][0] == "q0" and sorted(id for id, _ in results) == [f"q{n}" for n in range(7)]
    words = {id: row.text.split() for id, row in results}
    assert [" ".join(words[f"q{n}"][:-1]) for n in range(7)] == [
        f"{text} {n}" for n, text in enumerate(texts)
    ]
    assert {each[-1] for each in words.values()} == processes and len(processes) == 2
    assert Bar.note == "2 replicas"
    assert ask(both, []) == [] and ask(both, ["few"])[0].split()[-1] in processes


@pytest.mark.slow
def test_a_replica_that_dies_is_replaced_and_a_row_that_kills_two_is_named(engine, tmp_path, capfd) -> None:
    once, both = tmp_path / "once", engine()
    once.touch()
    assert [text.split()[0] for text in ask(both, ["a", f"die {once}", "b", "c"])] == ["a", "die", "b", "c"]
    error = capfd.readouterr().err
    assert "replicas: a replica on node 127.0.0.1 (process " in error and error.count("\n") == 1
    assert error.endswith("its process was killed, as the system does when memory runs out, or crashed; "
                          "rows to do again: 1\n")  # fmt: skip
    rows = numbered(["a", "b", "c", "d", "e", "always", "f", "g"])
    cache = row_cache.RowCache(tmp_path / "rows.sqlite")
    with (
        pytest.raises(
            UserError, match="^q5: 2 replicas of compute.processes died of this row, the last one "
        ),
        CachedEngine(lambda: engine(batch_size=4), cache, ("base", "base"), [], 0) as cached,
    ):
        list(cached.generate(rows, GREEDY))
    assert "Traceback" not in "".join(capfd.readouterr())
    del rows[5]  # all others are in the cache: no engine is made
    with CachedEngine(fake_replica.fail, cache, ("base", "base"), [], 0) as cached:
        assert {id for id, _ in cached.generate(rows, GREEDY)} == {row.id for row in rows}


@pytest.mark.slow
def test_an_idle_one_that_is_killed_is_replaced(engine) -> None:
    both = engine()
    processes = {int(text.rsplit(" ", 1)[1]) for text in ask(both, ["slow 1", "slow 1.1"])}
    os.kill(min(processes), signal.SIGKILL)
    assert ended([min(processes)], within=5)
    assert len(ask(both, ["a", "b", "c", "d"])) == 4


@pytest.mark.slow
def test_errors_are_those_of_one_process(engine) -> None:
    results = dict(engine(batch_size=2).generate(requests(["a", "b", "c", "large", "d"]), GREEDY))
    assert results["q3"] == Failure("does not fit") and len(results) == 5
    with pytest.raises(UserError, match="^there is no model; make one$"):
        ask(engine(fake_replica.fail), ["a"])
    with pytest.raises(RuntimeError, match="ZeroDivisionError: here"):
        ask(engine(), ["a", "bug here"])
    with pytest.raises(UserError, match="^3 replicas of compute.processes died before they were ready, "):
        ask(engine(fake_replica.die, processes=1), ["a"])


@pytest.mark.slow
def test_what_finds_no_free_cores_is_named_and_the_others_go_on(engine, capfd) -> None:
    with pytest.raises(
        UserError, match="^1 of 1 replicas found no node with 99 CPU and 0 GPU free in 2 s; add"
    ):
        ask(engine(processes=1, process_cores=99, patience=2), ["a"])
    cores = os.cpu_count() or 1
    texts = ["slow 15", *(f"slow 1.{n}" for n in range(cores))]
    assert len(ask(engine(processes=cores + 1, patience=8), texts)) == cores + 1
    line = "replicas found no node with 1 CPU and 0 GPU free in 8 s; the others go on"
    assert capfd.readouterr().err == f"replicas: 1 of {cores + 1} {line}\n"


@pytest.mark.slow
def test_what_is_yielded_is_kept_and_the_replicas_end_with_the_engine(engine, tmp_path: Path) -> None:
    file, both = tmp_path / "rows.sqlite", engine()
    with CachedEngine(lambda: both, row_cache.RowCache(file), ("base", "base"), [], 1) as kept:
        results = dict(kept.generate(requests(["a", "b", "large", "c"]), GREEDY))
    pids = [int(row.text.split()[-1]) for row in results.values() if not isinstance(row, Failure)]
    assert ended(pids, within=5)
    with CachedEngine(lambda: both, row_cache.RowCache(file), ("base", "base"), [], 0) as kept:
        del results["q2"]
        rows = [row for row in requests(["a", "b", "", "c"]) if row.id != "q2"]
        assert dict(kept.generate(rows, GREEDY)) == results


@pytest.mark.slow
def test_a_folder_that_the_node_lacks_is_sent_once_and_used_again(
    engine, local_cluster, tmp_path, monkeypatch
):
    """The node has another working directory: this path is there on the driver's side alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "weights").write_bytes(os.urandom(17 << 20))
    (tmp_path / "model" / "empty").touch()
    folders = {"folder": Path("/proc/self/cwd/model")}
    expected = local_cluster / "models" / hashing.dvc_hash(tmp_path / "model").removesuffix(".dir")
    for _ in range(2):
        both = engine(folders=folders)
        assert ask(both, ["folder", "folder"]) == [f"{expected} empty sub/weights"] * 2
        written = expected.stat().st_mtime_ns
        both.close()
    assert expected.stat().st_mtime_ns == written
    assert (expected / "sub/weights").read_bytes() == (tmp_path / "model/sub/weights").read_bytes()


@pytest.mark.slow
def test_a_limit_on_the_memory_of_replicas_changes_no_answer(engine, tiny_base: Path, tmp_path: Path) -> None:
    from medqa import model

    rows = [Request(f"q{n}", prompts.ask(f"What is gout {n}? " * 40), n) for n in range(128)]
    here = TransformersEngine(model.load_merged(tiny_base, "float32"), model.tokenizer(tiny_base), 128)
    start = fake_replica.Limited(megabytes=100, batch_size=128, report=tmp_path / "divisor")
    there = engine(start, {"model_dir": tiny_base}, batch_size=128)
    expected = dict(here.label_probabilities(rows, prompts.LABELS))
    assert dict(there.label_probabilities(rows, prompts.LABELS)) == expected
    assert int((tmp_path / "divisor").read_text()) > 1


SCRIPT = """
import signal, sys
import test_replicas as tests

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as a stage does
engine = tests.Replicas(tests.fake_replica.load, {}, tests.COMPUTE, 1)
try:
    tests.ask(engine, [f"wait {name}" for name in sys.argv[1:]])
except tests.UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, "gcs_server"])
def test_the_end_of_the_driver_or_of_the_head_is_the_end_of_all(tmp_path: Path, how: int | str) -> None:
    files, stderr = [tmp_path / "a", tmp_path / "b"], tmp_path / "stderr"
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    with stderr.open("w") as stream:  # Ray's agents would keep a pipe open
        driver = psutil.Popen(
            [sys.executable, "-c", SCRIPT, *files], env=environment, start_new_session=True, stderr=stream
        )
    while driver.poll() is None and not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
    assert driver.poll() is None, stderr.read_text()
    # Ray's two agents do no work, and take a minute to notice a SIGKILL of the driver.
    processes = {
        process.pid: process.name()
        for process in driver.children(recursive=True)
        if process.name() in ("raylet", "gcs_server") or "Replica" in process.name()
    }
    assert len(processes) == 4 and {"raylet", "gcs_server"} <= set(processes.values())
    if how == "gcs_server":
        os.kill(next(pid for pid, name in processes.items() if name == how), signal.SIGKILL)
    elif how == signal.SIGINT:
        os.killpg(driver.pid, how)  # as a terminal does
    else:
        driver.send_signal(how)
    driver.wait(timeout=60)
    assert ended(list(processes), within=20), [processes[pid] for pid in processes if running(pid)]
    error = stderr.read_text()
    assert error.count("Traceback") == (how == signal.SIGINT), error
    if how == "gcs_server":
        assert error.startswith(
            "the head node of compute.cluster = 'local' is gone; start it again and rerun"
        )
        assert error.count("\n") == 1


@pytest.mark.slow
def test_the_folder_of_a_local_cluster_goes_with_it_or_with_the_next_one() -> None:
    script = "import os, test_replicas as tests; tests.cluster.connect(tests.COMPUTE); {}"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the paths of sockets have to be short
        (Path(folder) / "ray" / "session_of_another_program").mkdir(parents=True)
        for end, left in (("os.kill(os.getpid(), 9)", 2), ("", 1)):
            env = os.environ | {"PYTHONPATH": PYTHONPATH, "RAY_TMPDIR": folder}
            subprocess.run([sys.executable, "-c", script.format(end)], env=env, stderr=subprocess.DEVNULL)
            sessions = Path(folder, "ray").glob("session_*_*")
            assert len([path for path in sessions if not path.is_symlink()]) == left


@pytest.mark.slow
def test_one_process_imports_no_ray(place: Place) -> None:
    command = "--base base --adapter sft --questions questions.jsonl --out out.jsonl --metrics metrics.json"
    script = (
        f"import sys, runpy; sys.argv[1:] = {command.split()}\n"
        "runpy.run_module('stages.generate', run_name='__main__', alter_sys=True)\n"
        "assert 'torch' in sys.modules and 'ray' not in sys.modules"
    )
    options = {"cwd": place.folder, "env": place.environment(), "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", script], **options)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_node_uses_the_folder_that_it_has_and_mends_a_broken_copy(
    local_cluster, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "node"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"right")
    content = hashing.dvc_hash(tmp_path / "model")
    assert Replica(1).call("has", "model", ModelFolder(tmp_path / "model", content)) is True
    parcel = transfer.pack(tmp_path / "model")
    elsewhere = ModelFolder(tmp_path / "elsewhere", content)
    for _ in range(2):
        node = Replica(1)
        assert node.call("has", "model", elsewhere) is False
        assert node.call("receive", "model", parcel) is None
        assert (node.paths["model"] / "weights").read_bytes() == b"right"
        assert Replica(1).call("has", "model", elsewhere) is True
        (node.paths["model"] / "weights").write_bytes(b"wrong")


def test_errors_of_a_replica_are_its_answers() -> None:
    node = Replica(1)
    assert isinstance(node.call("load", fake_replica.fail), UserError)
    node.call("load", fake_replica.load)
    error = node.call("compute", "generate", requests(["bug here"]), GREEDY)
    assert isinstance(error, RuntimeError) and "ZeroDivisionError: here" in str(error)
    assert len(node.call("compute", "generate", requests(["a", "b"]), GREEDY)) == 2
