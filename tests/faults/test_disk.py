"""Disks that are really full or read-only (a small tmpfs, where root may mount one), and a machine that loses
power.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from medqa import engines, jsonl, prompts
from medqa.engines import Request
from medqa.engines.cached import CachedEngine
from medqa.runtime import locks, row_cache
from medqa.training import checkpoints

pytestmark = pytest.mark.slow

WARM = engines.Sampling(temperature=0.7, top_p=0.95, max_new_tokens=8)
ROWS = 60


def ask(folder: Path) -> tuple[dict[str, engines.Completion], int, row_cache.RowCache]:
    """Answers of about a kilobyte by id, how many of them were made, and the row cache in the folder."""
    inner = FakeEngine(says=lambda prompt, seed: f"{prompt} " * 50)
    cache = row_cache.RowCache(folder / "store" / "rows.sqlite")
    engine = CachedEngine(lambda: inner, cache, ("base", "base"), ["cpu"], 0)
    answers: dict[str, engines.Completion] = {}
    for start in range(0, ROWS, 4):  # a cache writes at the end of each call
        rows = [Request(f"q{n}", prompts.ask(f"What is disease {n}?"), 1) for n in range(start, start + 4)]
        answers |= engine.generate(rows, WARM)
    return answers, len(inner.prompts), cache


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True
    ).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, spare: int) -> None:
    """Fill the disk up to so many bytes."""
    left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "ballast").write_bytes(bytes(left - spare))


@pytest.mark.parametrize("spare", [0, 4096, 20_000, 60_000, 120_000])
def test_a_full_disk_under_the_store_is_said_once_and_costs_no_answer(
    small: Path, capsys: pytest.CaptureFixture, spare: int
) -> None:
    fill(small, spare)
    expected, _, full = ask(small)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "run goes on" in message
    if full.db:
        full.db.close()
    (small / "ballast").unlink()
    # What was kept before is used, the rest is made again, and now it stays.
    again, made, _ = ask(small)
    assert again == expected and (made < ROWS or spare < 120_000)
    last, made, _ = ask(small)
    assert last == expected and made == 0


def test_a_read_only_disk_under_the_store_is_said_once_and_costs_no_answer(
    small: Path, capsys: pytest.CaptureFixture
) -> None:
    expected, _, kept = ask(small)
    kept.db.close()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    assert ask(small)[0] == expected
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_under_an_output_leaves_nothing_half_written(small: Path) -> None:
    fill(small, 4096)
    with (
        pytest.raises(OSError, match="No space left on device"),
        jsonl.atomic_write(small / "out.jsonl") as file,
    ):
        file.write("x" * 9000)
    assert [path.name for path in small.iterdir()] == ["ballast"]


def test_a_full_disk_under_a_checkpoint_leaves_the_one_before_it(tmp_path: Path, small: Path) -> None:
    for step in (1, 2):
        made = small / "work"
        made.mkdir()
        (made / "weights").write_bytes(bytes(1000))
        if step == 2:
            fill(small, 0)
            with pytest.raises(OSError, match="No space left on device"):
                checkpoints.store(made, small, step)
        else:
            checkpoints.store(made, small, step)
    assert checkpoints.latest(small).name == "step-00000001"


def test_a_lock_on_a_full_disk_holds(small: Path) -> None:
    fill(small, 0)
    assert locks.take(small / "lock") is None
    look = "import sys; from pathlib import Path; from medqa.runtime import locks; "
    look += "print(locks.take(Path(sys.argv[1])))"
    printed = subprocess.run(
        [sys.executable, "-c", look, small / "lock"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "0\n"  # another one holds it, and could not say who
    locks.release(small / "lock")


@pytest.mark.parametrize("share", [twentieth / 20 for twentieth in range(20)])
def test_power_lost_while_rows_are_written(tmp_path: Path, share: float) -> None:
    """The file as it was last synced, the log as far as its bytes got, and no shared memory."""
    expected, _, kept = ask(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "lost", ignore=shutil.ignore_patterns("*-shm"))
    kept.db.close()
    log = tmp_path / "lost" / "store" / "rows.sqlite-wal"
    os.truncate(log, int(log.stat().st_size * share))
    again, made, after = ask(tmp_path / "lost")
    assert again == expected and made > 0
    assert after.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was not synced when it is moved into place is lost with the power."""
    synced, rename, fsync = set(), os.rename, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), fsync(handle))[1])

    def synced_rename(source: Path, target: Path) -> None:
        if target.name.startswith("step-"):
            for path in [source, *source.rglob("*")]:
                assert path.stat().st_ino in synced, f"{path} is not on the disk"
        rename(source, target)

    monkeypatch.setattr(os, "rename", synced_rename)
    made = tmp_path / "work" / "checkpoint"
    (made / "ref").mkdir(parents=True)
    (made / "ref" / "weights").write_bytes(bytes(1000))
    (tmp_path / "kept").mkdir()
    checkpoints.store(made, tmp_path / "kept", 1)
    assert checkpoints.latest(tmp_path / "kept") and (tmp_path / "kept").stat().st_ino in synced
