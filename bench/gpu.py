"""Speed and memory of training, generating and judging at real size on a GPU: `python -m bench.gpu`.

Random-weight models of the real preset's shapes, in its dtype and with its settings, beside a notebook's loop
and TRL's defaults. Shares are of the arithmetic floor: the time that the operations of a token take at the
rate of a large matrix product, measured here. A smoke test comes first. `--small` tries the script on a CPU
and measures nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import checkpoints, gpu_smoke
from bench.gpu_parts import MAX_MEMORY, PARTS, PEERS, timed
from bench.gpu_sizes import REAL, SMALL, Bench, Size
from medqa import jsonl, model
from medqa.runtime import environment, presets

ROOT = Path(__file__).parent.parent
QUESTIONS = 109_353  # of UltraMedical-Preference
# Operations per weight and token: 2 in a forward pass, 4 in a backward pass, and 2 more for checkpointing.
# DPO has the reference's forward pass besides.
OPERATIONS = {"sft": 8, "dpo": 10, "generate": 2, "judge": 2}
TARGETS = {"sft": 0.35, "dpo": 0.30, "generate": 0.25, "judge": 0.40}  # shares of the floor's rate
SMOKE = {"cpu": gpu_smoke.cpu_losses, "smoke": gpu_smoke.smoke}
OTHERS = SMOKE | PEERS  # parts without a share of the floor
UNITS = {"sft": "tokens/s", "dpo": "tokens/s", "generate": "tokens/s", "judge": "pairs/s"}


def write_models(size: Size, work: Path, pool: Executor) -> list[Future]:
    """Begin to write the models `base` and `judge` to the folder, both at once."""
    tasks = []
    for name, shape in (("base", size.base), ("judge", size.judge)):
        # Not in the pool: threads cannot import transformers at the same time.
        tokenizer = checkpoints.tokenizer(shape.vocabulary)
        tasks.append(pool.submit(checkpoints.write, shape, tokenizer, name == "base", 0, work / name))
    return tasks


def measure(part: str, bench: Bench) -> dict[str, Any]:
    """One part's numbers, with its share of the arithmetic floor and the hours for all questions."""
    rate = product_rate(bench.size.product)
    result = PARTS[part](bench)
    shape = bench.size.judge if part == "judge" else bench.size.base
    operations = OPERATIONS[part] * shape.parameters() * result["tokens_per_second"]
    return result | {
        "product_rate": rate,
        "share_of_floor": operations / rate,
        "target": TARGETS[part],
        "hours_for_all": QUESTIONS / result["questions_per_second"] / 3600,
    }


def product_rate(width: int) -> float:
    """Operations per second of a square matrix product in bfloat16, the best of five."""
    import torch

    left, right = (torch.randn(width, width, device=model.device()).bfloat16() for _ in range(2))
    return max(2 * width**3 / timed(lambda: left @ right)[0] for _ in range(5))


def run_part(part: str, folder: Path, small: bool, seconds: float) -> dict[str, Any] | str:
    """The part's result from a process of its own, or why there is none: skipped, failed or out of time."""
    if seconds <= 0:
        return "skipped"
    out = folder / f"{part}.json"
    command = [sys.executable, "-m", "bench.gpu", "--part", part, "--work", str(folder), "--out", str(out)]
    variables = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if part == "cpu" else {})
    try:
        # In its own process, a part that runs out of memory ends none of the others.
        done = subprocess.run(command + ["--small"] * small, cwd=ROOT, env=variables, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "out of time"
    return json.loads(out.read_text(encoding="utf-8")) if done.returncode == 0 else "failed"


def run(
    parts: Sequence[str], small: bool, minutes: float, out: Path, run_part: Callable[..., Any] = run_part
) -> tuple[dict[str, Any], dict[str, str]]:
    """The results, and why others are missing; the JSON `out` has what is done after each part."""
    deadline = time.monotonic() + 60 * minutes
    results: dict[str, Any] = {}
    missing: dict[str, str] = {}
    size = SMALL if small else REAL
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder, ThreadPoolExecutor() as pool:
        models = write_models(size, Path(folder), pool)
        for part in parts:
            if part != "cpu":  # which writes its own model while the large ones are being written
                for task in models:
                    task.result()
            left = deadline - time.monotonic()
            print(f"gpu: {part}: {left:.0f} s left", flush=True)
            result = run_part(part, Path(folder), small, left)
            print(f"gpu: {part}: {result if isinstance(result, str) else json.dumps(result)}", flush=True)
            if isinstance(result, str):
                missing[part] = result
            else:
                results[part] = result
                _add_speedups(results)
            with jsonl.atomic_write(out) as file:
                json.dump({"where": where(small), "parts": results, "missing": missing}, file, indent=2)
    return results, missing


def _add_speedups(results: dict[str, dict[str, Any]]) -> None:
    """Add to our rows how many times as fast as TRL's defaults they are, if both are measured."""
    for part in PARTS:
        if part in results and f"trl-{part}" in results:
            peer = results[f"trl-{part}"]
            results[part]["over_trl"] = results[part]["questions_per_second"] * peer["seconds_per_row"]


def table(results: dict[str, dict[str, Any]], missing: dict[str, str], where: str) -> str:
    """The measured parts as a table, the missed targets, and the machine."""
    columns = ("part", "measured", "floor", "target", "peak GB", "x plain", "x TRL", "hours")
    lines = ["".join(f"{name:>18}" if name == "measured" else f"{name:>10}" for name in columns)]
    for part in (part for part in PARTS if part in results):
        row = results[part]
        ratios = [f"{row[name]:.2f}" if name in row else "-" for name in ("over_plain", "over_trl")]
        cells = [f"{row['share_of_floor']:.1%}", f"{row['target']:.0%}", f"{row['peak_gb']:.1f}", *ratios]
        cells.append(f"{row['hours_for_all']:.1f}")
        lines.append(
            f"{part:>10}{row['per_second']:>9.1f} {UNITS[part]:<8}" + "".join(f"{cell:>10}" for cell in cells)
        )
    if "smoke" in results:
        lines += [f"smoke: {fault}" for fault in results["smoke"]["faults"] or ["passed"]]
    lines.append(f"missed: {', '.join(missed(results, missing)) or 'nothing'}")
    return "\n".join([*lines, f"hours: for {QUESTIONS:,} questions, every row at full length; {where}"])


def missed(results: dict[str, dict[str, Any]], missing: dict[str, str]) -> list[str]:
    """The missed targets: shares of the floor, training's memory, the smoke test, and missing parts."""
    rows = {part: results[part] for part in PARTS if part in results}
    slow = [part for part, row in rows.items() if row["share_of_floor"] < row["target"]]
    large = [part for part, row in rows.items() if row["peak_gb"] > row.get("most_memory_gb", row["peak_gb"])]
    return [
        *(f"{part} {rows[part]['target']:.0%}" for part in slow),
        *(f"{part} {MAX_MEMORY:.0f} GB" for part in large),
        *(["smoke"] if "smoke" in results and results["smoke"]["faults"] else []),
        *(f"{part} ({reason})" for part, reason in missing.items()),
    ]


def where(small: bool) -> str:
    """The machine of the numbers, or that they mean nothing."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    name += f", torch {torch.__version__}"
    return f"tried small on {name}: says nothing about real sizes or a GPU" if small else f"on one {name}"


def main() -> int:
    """Test and measure each part in a process of its own, write the JSON as results come, print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--small", action="store_true", help="tiny models, to try the script on a CPU")
    parser.add_argument("--smoke", action="store_true", help="the smoke test alone")
    limit = "for all parts; those left after that are skipped (%(default)s)"
    parser.add_argument("--minutes", type=float, default=9, help=limit)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "gpu.json", help="the JSON to write")
    parser.add_argument("--part", choices=(*OTHERS, *PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    environment.set_up()
    if options.part:
        preset = presets.read("qwen2.5-1.5b", ROOT / presets.FOLDER)
        bench = Bench(SMALL if options.small else REAL, preset, options.work)
        result = OTHERS[options.part](bench) if options.part in OTHERS else measure(options.part, bench)
        options.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
        return 0
    if not options.small and model.device() == "cpu":
        print(
            "gpu: no GPU is at hand; run this where one is, or try the script with --small", file=sys.stderr
        )
        return 1
    # Our own numbers come before the peers'.
    parts = tuple(SMOKE) if options.smoke else (*SMOKE, *PARTS, *PEERS)
    results, missing = run(parts, options.small, options.minutes, options.out)
    print(table(results, missing, where(options.small)))
    return 1 if missing or results["smoke"]["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
