"""Speed and memory of training, generating and judging at real size on a GPU: `python -m bench.gpu`, table last.

Random-weight models of the real preset's shapes, in its dtype and with its settings, beside the loop that a notebook
would have and beside TRL's defaults. Shares are of the arithmetic floor: the time that the operations a token needs
take at the rate of a large matrix product, measured here. `--small` tries the script on a CPU and measures nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bench import checkpoints
from bench.gpu_parts import MOST_MEMORY, PARTS, Bench, Size, timed
from medqa import model

ROOT = Path(__file__).parent.parent
QUESTIONS = 109_353  # of UltraMedical-Preference
# Operations a weight and a token: a forward pass takes 2, a backward pass 4, and checkpointing a forward pass more.
# DPO has the reference's forward pass besides.
OPERATIONS = {"sft": 8, "dpo": 10, "generate": 2, "judge": 2}
TARGETS = {"sft": 0.35, "dpo": 0.30, "generate": 0.25, "judge": 0.40}  # shares of the floor's rate
UNITS = {"sft": "tokens/s", "dpo": "tokens/s", "generate": "tokens/s", "judge": "pairs/s"}

# No end token comes by chance: every answer has all its tokens.
REAL = Size(
    base=replace(checkpoints.BASE, ending=1.0),
    judge=replace(checkpoints.JUDGE, ending=1.0),
    product=8192,
    length=1024,
    few=8,
    many=136,
    questions=256,
    new_tokens=512,
    batch=512,
    plain_tokens=128,
    pairs=128,
    words=250,
)
_TINY = checkpoints.Shape(layers=2, width=128, heads=2, kv_heads=2, mlp=384, vocabulary=1024, ending=1.0)
SMALL = Size(
    base=_TINY,
    judge=_TINY,
    product=256,
    length=64,
    few=0,
    many=8,
    questions=4,
    new_tokens=8,
    batch=8,
    plain_tokens=4,
    pairs=2,
    words=10,
)


def prepare(size: Size, work: Path) -> None:
    """Write both models to the folder."""
    for name, shape in (("base", size.base), ("judge", size.judge)):
        tok = checkpoints.tokenizer(shape.vocabulary)
        checkpoints.write(shape, tok, quantised=name == "base", seed=0, out=work / name)


def measured(part: str, bench: Bench) -> dict[str, Any]:
    """One part's numbers, with its share of the arithmetic floor and the hours for all questions."""
    rate = product_rate(bench.size.product)
    result = PARTS[part](bench)
    shape = bench.size.judge if part == "judge" else bench.size.base
    needed = OPERATIONS[part] * shape.parameters() * result["tokens_per_second"]
    return result | {
        "product_rate": rate,
        "share_of_floor": needed / rate,
        "target": TARGETS[part],
        "hours_for_all": QUESTIONS / result["questions_per_second"] / 3600,
    }


def product_rate(width: int) -> float:
    """Operations a second of a square matrix product in bfloat16, the best of five."""
    import torch

    one, other = (torch.randn(width, width, device=model.device()).bfloat16() for _ in range(2))
    return max(2 * width**3 / timed(lambda: one @ other)[0] for _ in range(5))


def table(results: dict[str, dict[str, Any]], where: str) -> str:
    """The parts as a table, and what it was measured on."""
    columns = ("part", "measured", "floor", "target", "peak GB", "x plain", "x TRL", "hours")
    lines = ["".join(f"{name:>18}" if name == "measured" else f"{name:>10}" for name in columns)]
    for part, row in results.items():
        ratios = [f"{row[name]:.2f}" if name in row else "-" for name in ("over_plain", "over_trl")]
        cells = [f"{row['share_of_floor']:.1%}", f"{row['target']:.0%}", f"{row['peak_gb']:.1f}", *ratios]
        cells.append(f"{row['hours_for_all']:.1f}")
        lines.append(f"{part:>10}{row['per_second']:>9.1f} {UNITS[part]:<8}" + "".join(f"{cell:>10}" for cell in cells))
    lines.append(f"missed: {', '.join(missed(results)) or 'nothing'}")
    return "\n".join([*lines, f"hours: for {QUESTIONS:,} questions, every row at full length; {where}"])


def missed(results: dict[str, dict[str, Any]]) -> list[str]:
    """The targets that are not reached: a part's share of the floor, or training's memory."""
    told = [f"{part} {row['target']:.0%}" for part, row in results.items() if row["share_of_floor"] < row["target"]]
    over = [part for part, row in results.items() if row["peak_gb"] > row.get("most_memory_gb", row["peak_gb"])]
    return (
        told
        + [f"{part} {MOST_MEMORY:.0f} GB" for part in over]
        + [f"{part} (failed)" for part in PARTS if part not in results]
    )


def where(small: bool) -> str:
    """What the numbers were measured on, or that they are none."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    return f"tried small on {name}: says nothing about real sizes or a GPU" if small else f"on one {name}"


def main() -> int:
    """Measure each part in a process of its own, write the JSON, print the table last."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--small", action="store_true", help="tiny models, to try the script on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "gpu.json", help="the JSON to write")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model.set_up()
    if not options.small and model.device() == "cpu":
        print("gpu: no GPU is at hand; run this where one is, or try the script with --small", file=sys.stderr)
        return 1
    size = SMALL if options.small else REAL
    if options.part:
        given = yaml.safe_load((ROOT / "presets" / "qwen2.5-1.5b.yaml").read_text(encoding="utf-8"))
        result = measured(options.part, Bench(size, given, options.work))
        options.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
        return 0
    results = {}
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        prepare(size, Path(folder))
        for part in PARTS:
            out = Path(folder, f"{part}.json")
            command = [sys.executable, "-m", "bench.gpu", "--part", part, "--work", folder, "--out", str(out)]
            # A part that does not fit into memory takes down none of the others.
            done = subprocess.run(command + ["--small"] * options.small, cwd=ROOT)
            if done.returncode == 0:
                results[part] = json.loads(out.read_text(encoding="utf-8"))
    told = where(options.small)
    options.out.write_text(json.dumps({"where": told, "parts": results}, indent=2) + "\n", encoding="utf-8")
    print(table(results, told))
    return 0 if results.keys() == PARTS.keys() else 1


if __name__ == "__main__":
    sys.exit(main())
