"""The whole pipeline at real size without the real weights: `make rehearsal`, then a table of every stage.

Random-weight checkpoints in the shapes and formats of the real preset's models, and the embedded corpus in
UltraMedical's two formats, are served by a small Hub on loopback. A copy of this checkout runs
the preset qwen2.5-1.5b on them by `dvc repro`, with caches of its own, and is removed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench import checkout, checkpoints, runs, stage_log
from bench.checkout import ROOT
from bench.local_hub import Repo, running
from medqa.miniature import embedded, embedded_rows
from medqa.runtime import presets

PRESET = "qwen2.5-1.5b"
# All that differs from the preset. Its pins stay as they are: the small Hub serves those commits.
OVERRIDES = {
    "data.max_sft": 4,
    "data.max_questions": 4,
    "data.max_held_out": 2,
    "data.max_labelled": 1,
    "sft.batch_size": 4,  # one step; micro_batch_size stays
    "dpo.batch_size": 1,  # one step per pair
    "generate.max_new_tokens": 48,  # most answers of random weights end before that, some do not
    "evaluate.max_new_tokens": 8,
    # The wording makes no difference to judges of random weights, but to the time.
    "judge.template": "judge-short",
    "judge.min_mass": 0.0,  # by chance, five labels of 151,936 tokens have next to no probability
    "pairs.min_margin": 0.0,  # and scores by chance are close
    "agreement.attacked_pairs": 1,
}


def hub_repos(
    params: Mapping[str, Any], shapes: Mapping[str, checkpoints.Shape], folder: Path
) -> dict[str, Repo]:
    """What the preset downloads: its models, written to `folder` in these shapes, and its two data sets."""
    repos = {}
    for number, (name, shape) in enumerate(shapes.items()):
        source = params["models"][name]
        tokenizer = checkpoints.tokenizer(shape.vocabulary)
        checkpoints.write(shape, tokenizer, "GPTQ" in source["repo"], seed=number, out=folder / name)
        files = {path.name: path for path in (folder / name).iterdir()}
        repos[f"models/{source['repo']}"] = Repo(files, commit=source["revision"])
    topics = embedded.topics(checkpoints.CORPUS)
    _write_parquet(folder / "sft.parquet", list(embedded_rows.sft_rows(topics, params["seed"])))
    preference = embedded_rows.preference_rows(topics, params["seed"])
    data = {
        "sft": {"data/train.parquet": folder / "sft.parquet"},
        "preference": {f"{split}.json": json.dumps(rows).encode() for split, rows in preference.items()},
    }
    for name, files in data.items():
        source = params["data"][name]
        repos[f"datasets/{source['repo']}"] = Repo(files, commit=source["revision"])
    return repos


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    write_table(Table.from_pylist(rows), path)


def project(folder: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Copy this checkout into a repository of its own, with the preset as its params.yaml; its parameters."""
    checkout.copy(folder)
    params = presets.read(PRESET, folder / presets.FOLDER)
    for name, value in overrides.items():
        section, key = name.split(".")
        if key not in params[section]:
            raise KeyError(f"{PRESET} has no {name}")
        params[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    checkout.commit(folder)
    # Links instead of copies halve the disk space of what DVC caches.
    links = ["config", "--local", "cache.type", "hardlink,symlink"]
    subprocess.run([*checkout.DVC, *links], cwd=folder, check=True)
    return params


def environment(folder: Path, url: str) -> dict[str, str]:
    """An environment with the Hub at `url` and every cache in the folder."""
    return checkout.environment() | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "MEDQA_CACHE": str(folder / "medqa"),
        "NO_PROXY": "*",
    }


def repro(
    folder: Path, variables: dict[str, str], targets: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Run `dvc repro` and show its output: each stage with seconds and peak memory, and the exit code."""
    command = [*checkout.DVC, "repro", *targets]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=folder, env=variables, **pipes)

    def shown_lines() -> Iterator[str]:
        for line in process.stdout:
            print(line, end="", flush=True)
            yield line

    return list(stage_log.stages(shown_lines())), process.wait()


def estimate(folder: Path, variables: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """What `medqa check` says of each stage that has not run yet: seconds and peak memory in GB."""
    command = [sys.executable, "-m", "medqa", "check", "--json"]
    done = subprocess.run(command, cwd=folder, env=dict(variables), stdout=subprocess.PIPE, check=True)
    return {
        cost["stage"]: {"seconds": cost["seconds"], "peak_gb": cost["memory_gb"]}
        for cost in json.loads(done.stdout)
    }


@contextmanager
def work_folder(path: Path | None) -> Iterator[Path]:
    """The folder to work in: the named one, which stays, or a temporary one, which is removed."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
            yield Path(folder)
    else:
        path.mkdir(parents=True, exist_ok=True)
        yield path


def rehearse(
    shapes: Mapping[str, checkpoints.Shape],
    overrides: Mapping[str, Any],
    work: Path,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the preset in the folder `work` on models of these shapes; what each stage took.

    `targets` are the stages to end with; by default all stages run.
    """
    (work / "project").mkdir()
    (work / "served").mkdir()
    params = project(work / "project", overrides)
    started = time.monotonic()
    repos = hub_repos(params, shapes, work / "served")
    writing = time.monotonic() - started
    with running(repos) as hub:
        variables = environment(work, hub.url)
        # Before, nobody knows how long the rows are.
        stages, code = repro(work / "project", variables, ["data"])
        estimates = {}
        if code == 0:
            estimates = estimate(work / "project", variables)
            rest, code = repro(work / "project", variables, targets)
            stages += rest
    return {
        "models": {name: vars(shape) | {"parameters": shape.parameters()} for name, shape in shapes.items()},
        "dtype": params["dtype"],
        "overrides": dict(overrides),
        "machine": runs.machine(),
        "seconds_writing_checkpoints": round(writing),
        "seconds": round(time.monotonic() - started),
        "exit_code": code,
        "estimates": estimates,
        "stages": stages,
    }


def table(result: Mapping[str, Any]) -> str:
    """The stages of a rehearsal as a table, `~` what `medqa check` estimated once the rows were there."""
    lines = [f"{'stage':<18}{'seconds':>8}{'~':>7}{'peak GB':>9}{'~':>6}  result"]
    for row in result["stages"]:
        estimated = result["estimates"].get(row["stage"], {})
        cells = [f"{row['seconds']:>8}", _number(estimated.get("seconds"), 7, 0), f"{row['peak_gb']:>9.2f}"]
        cells.append(_number(estimated.get("peak_gb"), 6, 1))
        lines.append(f"{row['stage']:<18}{''.join(cells)}  {row['summary']}")
    peak = max((row["peak_gb"] for row in result["stages"]), default=0.0)
    end = "every stage ran" if result["exit_code"] == 0 else f"ended with exit code {result['exit_code']}"
    total = f"{'all':<18}{result['seconds']:>8}{'':7}{peak:>9.2f}{'':6}  {end}; {result['dtype']} on a CPU"
    return "\n".join([*lines, total])


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'' if value is None else format(value, f'.{digits}f'):>{width}}"


def main() -> int:
    """Rehearse at the preset's own size, write the JSON, print the table last."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = ROOT / "bench" / "rehearsal.json"
    parser.add_argument("--out", type=Path, default=default, help="the JSON to write")
    parser.add_argument(
        "--work", type=Path, help="an empty folder to work in, which stays; default: temporary"
    )
    options = parser.parse_args()
    with work_folder(options.work) as work:
        shapes = {"base": checkpoints.BASE, "judge": checkpoints.JUDGE}
        result = rehearse(shapes, OVERRIDES, work.resolve())
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return result["exit_code"]


if __name__ == "__main__":
    sys.exit(main())
