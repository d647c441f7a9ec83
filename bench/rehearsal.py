"""The whole pipeline at real size without the real weights: `make rehearsal`, then a table of every stage.

Random-weight checkpoints in the shapes and formats of the real preset's models, and the embedded corpus in
UltraMedical's two formats, are served by a small Hub on loopback. A copy of this checkout runs
presets/qwen2.5-1.5b.yaml on them by `dvc repro`, with its own caches, and is removed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench import checkpoints
from medqa.miniature import embedded, embedded_rows
from tests.fake_hub import Repo, running

ROOT = Path(__file__).parent.parent
PRESET = Path("presets") / "qwen2.5-1.5b.yaml"
# All that differs from the preset. Its pins stay as they are: the small Hub serves the commits that they
# name.
OVERRIDES = {
    "data.max_sft": 4,
    "data.max_questions": 4,
    "data.max_held_out": 2,
    "data.max_labelled": 1,
    "sft.batch_size": 4,  # one step; micro_batch_size stays
    "dpo.batch_size": 1,  # a step for each pair
    "generate.max_new_tokens": 48,  # most answers of random weights end before, some do not
    "evaluate.max_new_tokens": 8,
    "judge.template": "judge-short",  # what judges of random weights are asked makes no difference but to the time
    "judge.min_mass": 0.0,  # five labels of 151,936 tokens hold next to nothing of the probability by chance
    "pairs.min_margin": 0.0,  # and scores by chance are close
    "agreement.attacked_pairs": 1,
}
STARTED = re.compile(r"Running stage '([^']+)'")
ENDED = re.compile(r"^\w+: (.*) \((\d+) s, peak memory ([\d.]+) GB\)$")


def repos(given: Mapping[str, Any], shapes: Mapping[str, checkpoints.Shape], folder: Path) -> dict[str, Repo]:
    """What the preset asks of the Hub: its models, written to `folder` in these shapes, and its two data
    sets.
    """
    served = {}
    for number, (name, shape) in enumerate(shapes.items()):
        source = given["models"][name]
        tok = checkpoints.tokenizer(shape.vocabulary)
        checkpoints.write(shape, tok, quantised="GPTQ" in source["repo"], seed=number, out=folder / name)
        files = {path.name: path for path in (folder / name).iterdir()}
        served[f"models/{source['repo']}"] = Repo(files, commit=source["revision"])
    topics = embedded.topics(checkpoints.CORPUS)
    data = folder / "sft.parquet"
    _parquet(data, list(embedded_rows.sft_rows(topics, given["seed"])))
    preference = embedded_rows.preference_rows(topics, given["seed"])
    arrays = {f"{split}.json": json.dumps(rows).encode() for split, rows in preference.items()}
    for name, files in (("sft", {"data/train.parquet": data}), ("preference", arrays)):
        source = given["data"][name]
        served[f"datasets/{source['repo']}"] = Repo(files, commit=source["revision"])
    return served


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    write_table(Table.from_pylist(rows), path)


def project(folder: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A repository of its own with this checkout's files, and the preset as its params.yaml; its parameters."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(
        listed, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    given = yaml.safe_load((folder / PRESET).read_text(encoding="utf-8"))
    for name, value in overrides.items():
        section, key = name.split(".")
        if key not in given[section]:
            raise KeyError(f"{PRESET} has no {name}")
        given[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=rehearsal", "-c", "user.email=rehearsal@localhost", "commit", "-qm", "start"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    # A model of the Hub is a pin here; what DVC caches is small, and this halves even that.
    subprocess.run([*_dvc(), "config", "--local", "cache.type", "hardlink,symlink"], cwd=folder, check=True)
    return given


def environment(folder: Path, url: str) -> dict[str, str]:
    """This environment, with the Hub at `url`, this interpreter first, and every cache in the folder."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("DVC_", "MEDQA_", "GIT_", "HF_"))
    }
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "MEDQA_CACHE": str(folder / "medqa"),
        "NO_PROXY": "*",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def repro(folder: Path, env: dict[str, str], targets: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Run `dvc repro`, shown as it goes: each stage with its seconds, peak memory and last line, and the exit
    code.
    """
    stages, name = [], ""
    process = subprocess.Popen(
        [*_dvc(), "repro", *targets],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := STARTED.search(line):
            name = found[1]
        elif found := ENDED.match(line.strip()):
            seconds, peak = int(found[2]), float(found[3])
            stages.append({"stage": name, "seconds": seconds, "peak_gb": peak, "told": found[1]})
    return stages, process.wait()


@contextmanager
def place(given: Path | None) -> Iterator[Path]:
    """The folder to work in: a temporary one that is removed, or one that is named and stays."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
            yield Path(folder)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given


def rehearse(
    shapes: Mapping[str, checkpoints.Shape],
    overrides: Mapping[str, Any],
    work: Path,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the preset in the folder `work` on models of these shapes; what each stage took.

    `targets` are the stages to end with; without any, all are run.
    """
    (work / "project").mkdir()
    (work / "served").mkdir()
    given = project(work / "project", overrides)
    started = time.monotonic()
    served = repos(given, shapes, work / "served")
    written = time.monotonic() - started
    with running(served) as hub:
        stages, code = repro(work / "project", environment(work, hub.url), targets)
    return {
        "models": {name: vars(shape) | {"parameters": shape.parameters()} for name, shape in shapes.items()},
        "dtype": given["dtype"],
        "overrides": dict(overrides),
        "machine": machine(),
        "seconds_writing_checkpoints": round(written),
        "seconds": round(time.monotonic() - started),
        "exit_code": code,
        "stages": stages,
    }


def machine() -> dict[str, Any]:
    """What this ran on."""
    import torch

    return {
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }


def table(result: Mapping[str, Any]) -> str:
    """The stages of a rehearsal as a table."""
    lines = [f"{'stage':<16}{'seconds':>8}{'peak GB':>9}  what came out"]
    lines += [
        f"{row['stage']:<16}{row['seconds']:>8}{row['peak_gb']:>9.1f}  {row['told']}"
        for row in result["stages"]
    ]
    peak = max((row["peak_gb"] for row in result["stages"]), default=0.0)
    end = "every stage ran" if result["exit_code"] == 0 else f"ended with exit code {result['exit_code']}"
    return "\n".join(
        [*lines, f"{'all':<16}{result['seconds']:>8}{peak:>9.1f}  {end}; {result['dtype']} on a CPU"]
    )


def _dvc() -> list[str]:
    return [sys.executable, "-m", "dvc"]


def main() -> int:
    """Rehearse at the preset's own size, write the JSON, print the table last."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "rehearsal.json", help="the JSON to write"
    )
    parser.add_argument("--work", type=Path, help="an empty folder to work in and keep; else a temporary one")
    options = parser.parse_args()
    with place(options.work) as work:
        shapes = {"base": checkpoints.BASE, "judge": checkpoints.JUDGE}
        result = rehearse(shapes, OVERRIDES, work.resolve())
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return result["exit_code"]


if __name__ == "__main__":
    sys.exit(main())
