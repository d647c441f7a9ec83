"""A lock has one holder, names it, and is free as soon as that process has ended in any way."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medqa.runtime import locks

ROOT = Path(__file__).parent.parent
HOLD = """
import sys, time
from pathlib import Path
from medqa.runtime import locks
print(locks.take(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "stage.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "None\n"
        yield process
        process.kill()


def test_a_lock_is_taken_once_and_leaves_no_file(path: Path) -> None:
    for _ in range(2):
        assert locks.take(path) is None
        assert locks.take(path) == os.getpid()
        locks.release(path)
        assert not path.exists()


def test_a_lock_names_its_holder_and_ends_with_it(path: Path, holder: subprocess.Popen) -> None:
    assert locks.take(path) == holder.pid
    holder.kill()
    holder.wait()
    assert locks.take(path) is None
    locks.release(path)


def test_a_waiting_process_says_so_once(
    path: Path, holder: subprocess.Popen, capsys: pytest.CaptureFixture
) -> None:
    threading.Timer(1.2, holder.kill).start()
    locks.wait(path, "dpo")
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith(f"dpo: process {holder.pid} still writes the same")
    assert locks.take(path) == os.getpid()
    locks.release(path)
