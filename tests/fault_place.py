"""A folder in which single stages can be run, killed and starved: tiny models, a few rows, two of them a
batch.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from medqa import jsonl, records

# Where a shell runs the tests in the background it has them ignore Ctrl-C, and so would the stages that they
# start.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parent.parent
ROWS = 24
COMMANDS = {
    "generate": "--base base --adapter sft --questions questions.jsonl --out out.jsonl",
    "judge": "--model judge --candidates candidates.jsonl --out out.jsonl --histogram h.tsv",
    "evaluate": "--base base --policy sft --held-out heldout.jsonl --answers out.jsonl",
}


@dataclass(frozen=True)
class Place:
    """The folder, and where the rows of its stages are kept."""

    folder: Path
    cache: Path

    def start(self, stage: str, off: bool = False, arguments: Sequence[str] = ()) -> subprocess.Popen:
        """Start a stage, in a process group of its own; with `off`, without the row cache from now on."""
        if off:
            raw = yaml.safe_load((self.folder / "params.yaml").read_text())
            raw["compute"]["row_cache"] = False
            (self.folder / "params.yaml").write_text(yaml.safe_dump(raw))
        arguments = arguments or [*COMMANDS[stage].split(), "--metrics", "metrics.json"]
        command = [sys.executable, "-m", f"stages.{stage}", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), start_new_session=True, **pipes
        )

    def environment(self) -> dict[str, str]:
        """Variables with which a stage keeps its work here."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
        return env | {"MEDQA_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)}

    def run(self, stage: str, off: bool = False) -> bytes:
        """Run a stage to its end; what it wrote."""
        process = self.start(stage, off)
        _, told = process.communicate()
        assert process.returncode == 0, told
        return self.written()

    def written(self) -> bytes:
        """What the last stage wrote."""
        return b"".join((self.folder / name).read_bytes() for name in ("out.jsonl", "metrics.json"))

    def kept(self) -> tuple[int, int]:
        """Rows in the row cache, and hits."""
        files = list((self.cache / "row_cache").glob("*.sqlite"))
        if not files:
            return 0, 0
        try:
            with closing(sqlite3.connect(files[0], timeout=30)) as db:
                rows = db.execute("SELECT count(*) FROM rows").fetchone()[0]
                return rows, db.execute("SELECT coalesce(sum(hits), 0) FROM models").fetchone()[0]
        except sqlite3.OperationalError:
            return 0, 0  # it is just being made

    def wait_for(self, rows: int, process: subprocess.Popen) -> None:
        """Wait until the row cache holds so many rows, or the process has ended."""
        while process.poll() is None and self.kept()[0] < rows:
            time.sleep(0.01)


def kill(process: subprocess.Popen, how: int = signal.SIGKILL) -> str:
    """Send the signal, wait for the end; what the process said."""
    if process.poll() is None:
        process.send_signal(how)
    return process.communicate()[1]


def rows_of(kind: type, texts: Sequence[str], **others: object) -> list:
    """Records of a kind, all different; `texts` are the fields that are text."""
    return [
        kind(**{name: f"{name} {number:03} of gout" for name in texts}, **others) for number in range(ROWS)
    ]


@pytest.fixture(scope="session")
def models(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter on it and a judge that has learnt nothing."""
    from medqa import model, sft
    from medqa.miniature import scratch
    from medqa.runtime import sections
    from medqa.training.fine_tuning import TrainingJob

    folder = tmp_path_factory.mktemp("faults")
    (folder / "base").symlink_to(tiny_base)
    tok = model.tokenizer(tiny_base)
    scratch.model(tok, 128, 2, 32, 0).save_pretrained(folder / "judge")
    tok.save_pretrained(folder / "judge")
    examples = [records.Example(f"e{n}", "open", f"What causes gout {n}?", f"Causes {n}.") for n in range(8)]
    params = sections.SftParams(
        epochs=1,
        learning_rate=0.01,
        batch_size=4,
        micro_batch_size=4,
        max_length=64,
        warmup_share=0,
        activation_checkpointing=False,
        dequantised=True,
        lora=sections.Lora(r=4, alpha=8, dropout=0),
    )
    sft.train(
        TrainingJob("sft", tiny_base, params, "float32", 0, folder / "sft", folder / "sft.tsv"), examples
    )
    return folder


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Place:
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("base", "judge", "sft"):
        (folder / name).symlink_to(models / name)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["corpus"] = str(ROOT / raw["corpus"])
    raw["generate"]["max_new_tokens"] = raw["evaluate"]["max_new_tokens"] = 30
    raw["evaluate"]["bootstrap_samples"] = 100
    raw["judge"]["min_mass"] = 0.0
    raw["compute"] |= {"generate_batch_size": 2, "judge_batch_size": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    questions = rows_of(records.Question, ("id", "question", "reference"))
    texts = ("id", "question_id", "question", "reference", "text", "finish_reason")
    candidates = rows_of(records.Candidate, texts, sample=0)
    texts = ("id", "kind", "question", "reference", "chosen", "rejected")
    held_out = rows_of(records.HeldOut, texts, key_points=(), gold="")
    for name, rows in (("questions", questions), ("candidates", candidates), ("heldout", held_out)):
        jsonl.write(folder / f"{name}.jsonl", rows)
    return Place(folder, tmp_path / "cache")
