"""Stages killed at random moments, interrupted, and started twice: the same bytes, and no finished chunk
again.
"""

import os
import random
import signal
import time

import pytest
from fault_place import COMMANDS, ROWS, Place, kill

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MEDQA_SOAK", "2"))  # `make soak` asks for more
# Rows that the stage keeps in all; this base answers without a word, and the judge is not asked about that.
# It is asked about one point of each reference and about one sentence of each answer.
TOTAL = {"generate": 2 * ROWS, "judge": 2 * ROWS, "evaluate": 4 * ROWS}


@pytest.mark.parametrize("stage", COMMANDS)
def test_kill_minus_9_loses_what_is_not_finished(place: Place, stage: str) -> None:
    rng = random.Random(f"{stage} {KILLS}")
    used, kept, rows_out = 0, 0, 2 * ROWS if stage == "generate" else ROWS
    # The moments are spread over the run by what is kept, as starting takes longer than these few rows.
    for moment in sorted(rng.randrange(TOTAL[stage]) for _ in range(KILLS)):
        process = place.start(stage)
        place.wait_for(moment, process)
        time.sleep(rng.random() * 0.1)
        kill(process)
        if (place.folder / "out.jsonl").exists():
            assert (place.folder / "out.jsonl").read_bytes().count(b"\n") == rows_out, "half an output"
        now, hits = place.kept()
        assert now >= kept, "rows were lost"
        kept, used = now, hits
    again = place.run(stage)
    rows, hits = place.kept()
    assert rows == TOTAL[stage] and hits - used >= kept, "what was kept was not used"
    for side in ("out.jsonl", "metrics.json"):
        (place.folder / side).unlink()
    warm = place.run(stage)
    assert place.kept() == (rows, hits + rows)
    assert again == warm == place.run(stage, off=True)


def test_ctrl_c_ends_soon_and_says_what_is_kept(place: Place) -> None:
    process = place.start("generate")
    place.wait_for(6, process)
    asked = time.monotonic()
    told = kill(process, signal.SIGINT)
    assert process.returncode == 130 and time.monotonic() - asked < 5
    said = next(int(word) for word in told.split("interrupted; ")[1].split() if word.isdigit())
    assert said == place.kept()[0] and "dvc repro goes on from there" in told and "Traceback" not in told


def test_a_second_writer_waits_for_an_orphan_and_names_it(place: Place) -> None:
    orphan = place.start("generate")
    place.wait_for(2, orphan)
    os.kill(orphan.pid, signal.SIGSTOP)  # it will not end by itself while we look
    second = place.start("generate")
    line = next(line for line in second.stderr if "still writes the same outputs" in line)
    assert f"process {orphan.pid} " in line and second.poll() is None
    kept, _ = place.kept()
    kill(orphan)
    _, told = second.communicate()
    assert second.returncode == 0, told
    assert place.kept()[1] >= kept
    first = (place.folder / "out.jsonl").read_bytes() + (place.folder / "metrics.json").read_bytes()
    assert first == place.run("generate", off=True)


def test_other_outputs_do_not_wait(place: Place) -> None:
    process = place.start("generate")
    place.wait_for(2, process)
    os.kill(process.pid, signal.SIGSTOP)
    place.run("judge")
    kill(process)
