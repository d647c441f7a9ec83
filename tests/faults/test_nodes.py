"""A cluster of several nodes under real stages: nodes come and go at random moments, and no byte changes."""

import os
import random
import signal
from collections.abc import Iterator

import pytest
import yaml
from fault_place import COMMANDS, ROOT, Place, kill

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MEDQA_SOAK", "1"))  # nodes per stage; `make soak` asks for more
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class Nodes:
    """A cluster of a head without cores and three nodes of one core each, which a test kills and adds."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False}
        )
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(3)]

    def replace(self, rng: random.Random) -> None:
        """Kill a node, and add one."""
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE, wait=False))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (LOOPBACK | {"PYTHONPATH": str(ROOT)}).items():
            patch.setenv(name, value)
        made = Nodes()
        patch.setenv("RAY_ADDRESS", made.cluster.address)
        yield made
        made.cluster.shutdown()


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
        written = b"".join((place.folder / name).read_bytes() for name in ("out.jsonl", "metrics.json"))
        assert written == expected and place.kept()[0] == total


def test_a_killed_driver_leaves_no_actor_and_its_rows_are_kept(place: Place, nodes: Nodes) -> None:
    expected = place.run("judge")
    empty_cache(place)
    share(place, "auto", 2)
    process = place.start("judge")
    place.wait_for(5, process)
    kill(process, signal.SIGKILL)
    kept, hits = place.kept()
    assert kept >= 5 and hits == 0
    assert place.run("judge") == expected and place.kept()[1] == kept
    share(place, None, 1)
    total, hits = place.kept()
    assert place.run("judge") == expected and place.kept() == (total, hits + total)


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
