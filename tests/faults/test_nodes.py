"""A cluster of several nodes under real stages: nodes come and go at random moments, and no byte changes."""

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fake_replica
import psutil
import pytest
import yaml
from cluster_nodes import Nodes, ended, free_port, frozen, memory_share, on_request, running_nodes, workers
from fault_place import COMMANDS, Place, kill
from test_replicas import COMPUTE, GREEDY, numbered

from medqa.engines.replicas import Replicas
from medqa.engines.windows import windows
from medqa.runtime import cluster

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MEDQA_SOAK", "1"))  # nodes per stage; `make soak` asks for more
AGAIN = re.compile(r"^replicas: a replica on node 127.0.0.1 .*; rows to do again: (\d+)$", re.M)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running_nodes(3) as three:
        yield three


def lengthen(place: Place) -> None:
    """From now on seconds of work are left when the first rows are there."""
    path = place.folder / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["generate"]["max_new_tokens"] = 200
    path.write_text(yaml.safe_dump(raw))


def share(place: Place, cluster: str | None, processes: int) -> None:
    """From now on the stages of this folder compute rows in so many processes."""
    path = place.folder / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["compute"] |= {"cluster": cluster, "processes": processes, "process_cores": 1}
    path.write_text(yaml.safe_dump(raw))


def empty_cache(place: Place) -> None:
    for file in (place.cache / "row_cache").iterdir():
        file.unlink()


@pytest.mark.parametrize("stage", COMMANDS)
def test_nodes_that_go_and_come_change_no_byte(place: Place, nodes: Nodes, stage: str) -> None:
    expected = place.run(stage)
    total, _ = place.kept()
    share(place, "auto", 3)
    rng = random.Random(f"{stage} {KILLS}")
    done = 0
    while done < KILLS:
        empty_cache(place)
        process = place.start(stage)
        for moment in sorted(rng.randrange(total) for _ in range(min(3, KILLS - done))):
            place.wait_for(moment, process)
            nodes.replace(rng)
            done += 1
        output, error = process.communicate()
        assert process.returncode == 0, error
        assert len(output.split("\n")) <= 3 and "(raylet" not in output + error and "Traceback" not in error
        assert len(AGAIN.findall(error)) <= KILLS
        assert place.written() == expected and place.kept()[0] == total


def test_each_lost_node_costs_one_window_at_most(nodes: Nodes, tmp_path: Path, capfd) -> None:
    file, rng = tmp_path / "computed", random.Random(KILLS)
    texts = [f"note {file} {n}" for n in range(240)]
    rows = numbered(texts)
    compute = COMPUTE.model_copy(update={"cluster": "auto", "processes": 3})
    largest = max(len(window.requests) for window in windows(rows, 3, 1))
    engine, lost = Replicas(fake_replica.load, {}, compute, 1), 0
    for done, _ in enumerate(engine.generate(rows, GREEDY)):
        if lost < 3 and done >= (lost + 1) * 60:
            nodes.replace(rng)
            lost += 1
    engine.close()
    cluster.disconnect()
    assert done == len(rows) - 1
    computed = Counter(file.read_text().splitlines())
    again = [int(count) for count in AGAIN.findall(capfd.readouterr().err)]
    assert set(computed) == set(texts) and len(again) <= lost == 3 and max(again, default=0) <= largest
    assert computed.total() - len(texts) <= sum(again)


@on_request
def test_a_replica_that_takes_all_memory_is_killed_and_the_line_names_its_node(tmp_path: Path, capfd) -> None:
    (tmp_path / "once").touch()
    compute = COMPUTE.model_copy(update={"cluster": "auto", "processes": 1})
    # So much that other programs of this machine may come and go meanwhile.
    beside = min(4 << 30, int(0.4 * psutil.virtual_memory().available))
    with running_nodes(1, _system_config={"memory_usage_threshold": memory_share(beside)}):
        engine = Replicas(fake_replica.load, {}, compute, 1)
        results = dict(engine.generate(numbered(["a", f"hog {tmp_path / 'once'}", "b"]), GREEDY))
        engine.close()
    assert len(results) == 3 and not (tmp_path / "once").exists()
    assert re.search(
        r"^replicas: a replica on node 127.0.0.1 \(process \d+\) died: its node ran low on memory; "
        "rows to do again: 1$",
        capfd.readouterr().err,
        re.M,
    )


def test_a_killed_driver_leaves_no_actor_and_its_rows_are_kept(place: Place, nodes: Nodes) -> None:
    lengthen(place)
    expected = place.run("generate")
    empty_cache(place)
    share(place, "auto", 2)
    process = place.start("generate")
    place.wait_for(1, process)
    replicas = workers("Replica")
    assert replicas  # on a busy machine the second one may still be starting
    kill(process, signal.SIGKILL)
    assert ended(replicas, within=30) and not workers("Replica")
    kept, hits = place.kept()
    assert kept >= 1 and hits == 0
    assert place.run("generate") == expected and place.kept()[1] == kept
    share(place, None, 1)
    total, hits = place.kept()
    assert place.run("generate") == expected and place.kept() == (total, hits + total)


def test_the_loss_of_the_head_node_is_one_line_and_no_row_is_lost(place: Place) -> None:
    lengthen(place)
    expected = place.run("generate")
    empty_cache(place)
    share(place, "auto", 2)
    with running_nodes(2) as nodes:
        process = place.start("generate")
        place.wait_for(1, process)
        with frozen(workers("Replica")):  # they would end the work before the stage looks at the head
            nodes.kill_head()
            error = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in error, error
    assert error.splitlines()[-1].startswith("generate: the head node of compute.cluster = 'auto' is gone")
    kept, _ = place.kept()
    with running_nodes(2):
        assert place.run("generate") == expected and place.kept()[1] == kept >= 1


def test_a_driver_outside_the_cluster_writes_the_same_bytes(place: Place) -> None:
    expected = place.run("judge", off=True)
    with running_nodes(2, ray_client_server_port=(port := free_port())) as nodes:
        share(place, f"ray://127.0.0.1:{port}", 2)
        assert place.run("judge") == expected
        process = place.start("judge")
        while process.poll() is None and not workers("Replica"):
            time.sleep(0.05)
        nodes.kill_head()
        error = process.communicate(timeout=120)[1]
    # After the lines of the progress bar, as Ray's client tries to reconnect for half a minute.
    assert process.returncode == 1 and "Traceback" not in error, error
    assert error.splitlines()[-1].startswith("judge: the head node of compute.cluster = 'ray://")


def test_two_drivers_share_a_cluster(place: Place, nodes: Nodes) -> None:
    expected = {stage: place.run(stage, off=True) for stage in ("generate", "judge")}
    share(place, "auto", 2)
    command = COMMANDS["judge"].replace("out.jsonl", "judged.jsonl").split()
    judge = place.start("judge", arguments=[*command, "--metrics", "judge.json"])
    assert place.run("generate") == expected["generate"]
    assert judge.communicate()[1] == "" or judge.returncode == 0
    names = ("judged.jsonl", "judge.json")
    assert b"".join((place.folder / name).read_bytes() for name in names) == expected["judge"]


def test_a_cluster_that_is_not_there_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    share(place, "auto", 2)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    process = place.start("judge")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert error.startswith("judge: compute.cluster = 'auto' does not answer (") and error.count("\n") == 1
