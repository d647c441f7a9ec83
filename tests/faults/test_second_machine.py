"""Rows and training on a second machine, which shares no file with the driver, and loses its power."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_nodes import Nodes, on_request, running_nodes
from fault_place import Place
from second_machine import freeze, power_off, second_machine
from test_distributed import GOES_ON, finish, start, wait_for_checkpoint
from test_nodes import AGAIN, empty_cache, lengthen, share

pytestmark = pytest.mark.slow

LOSSES = [freeze, pytest.param(power_off, marks=on_request)]


@pytest.fixture(scope="module")
def head() -> Iterator[Nodes]:
    """A cluster whose only node has no cores."""
    with running_nodes(0) as nodes:
        yield nodes


def test_rows_of_a_second_machine_are_the_same_bytes(place: Place, head: Nodes) -> None:
    expected = place.run("evaluate")
    empty_cache(place)
    share(place, "auto", 2)
    with second_machine(head):
        assert place.run("evaluate") == expected


@pytest.mark.parametrize("lose", LOSSES)
def test_rows_of_a_machine_that_is_lost_are_done_by_another(place: Place, head: Nodes, lose) -> None:
    lengthen(place)
    expected = place.run("generate")
    total, _ = place.kept()
    empty_cache(place)
    share(place, "auto", 2)
    with second_machine(head) as first:
        process = place.start("generate")
        place.wait_for(1, process)
        with second_machine(head, wait=False):
            lose(first)
            error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    assert place.written() == expected and place.kept()[0] == total
    assert 1 <= len(AGAIN.findall(error)) <= 2 and "Traceback" not in error, error


@pytest.fixture(scope="module")
def together(models: Path, tmp_path_factory: pytest.TempPathFactory, head: Nodes) -> Any:
    """Losses and weights of DPO on two machines that nobody disturbs."""
    folder = tmp_path_factory.mktemp("together")
    with second_machine(head, cores=1), second_machine(head, cores=1):
        return finish(start(models, folder, "dpo", 2, "auto"), folder, "dpo")[:2]


def test_two_machines_train_as_one_process(models: Path, tmp_path: Path, together) -> None:
    losses, *_ = finish(start(models, tmp_path, "dpo", 1, None), tmp_path, "dpo")
    assert together[0] == pytest.approx(losses, abs=1e-3) and len(losses) == 8


@pytest.mark.parametrize("lose", LOSSES)
def test_training_goes_on_when_a_machine_is_lost(
    models: Path, tmp_path: Path, head: Nodes, together, lose
) -> None:
    with second_machine(head, cores=1) as first, second_machine(head, cores=1):
        process = start(models, tmp_path, "dpo", 2, "auto")
        wait_for_checkpoint(process, tmp_path)
        with second_machine(head, cores=1, wait=False):
            lose(first)
            *result, output = finish(process, tmp_path, "dpo")
    assert tuple(result) == together and output.count(GOES_ON) == 1, output
