"""The smoke test of bench.gpu: what only a GPU can break. Losses beside a CPU's at small size, then every
step at real.

At small size the same rows train on a CPU and on the GPU, at a learning rate that takes the loss down by a
seventh in these steps: an adapter that does not learn, or a wrong gradient, shows. At real size the preset's
own batches are used.
"""

import gc
import json
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import checkpoints
from bench.gpu_parts import MOST_MEMORY, peak_memory
from bench.gpu_sizes import SMALL, Bench
from medqa import dpo, judge, model, prompts, sft
from medqa.engines import Request, Sampling, sample_seed
from medqa.runtime import sections
from medqa.training import fine_tuning

STEPS = 20
TOLERANCE = 0.02  # of each step's loss; bfloat16 beside float32 on one CPU is 0.004
LEARNING_RATE = 2e-3
NEW_TOKENS = 64
SMALL_FOLDER = "small"


def cpu_losses(bench: Bench) -> dict[str, list[float]]:
    """The losses of each step at small size, on a CPU: the main process hides the GPUs. Writes the small
    model too.
    """
    folder, shape = bench.work / SMALL_FOLDER, SMALL.base
    checkpoints.write(
        shape, checkpoints.tokenizer(shape.vocabulary), quantised=True, seed=0, out=folder / "base"
    )
    return _small_losses(bench, "adapter")


def smoke(bench: Bench) -> dict[str, Any]:
    """What each check gave, with its peak memory in GB, and `faults`: all that is not as it has to be.

    A check that fails ends none of the others.
    """
    rows, faults = {}, []
    for name, check in CHECKS.items():
        _free()
        try:
            row = check(bench)
        except Exception as error:
            traceback.print_exc()
            faults.append(f"{name}: {error!r}")
            continue
        faults += [f"{name}: {fault}" for fault in row.pop("faults", [])]
        peak = peak_memory()
        if peak > MOST_MEMORY:
            faults.append(f"{name}: {peak:.1f} GB, more than {MOST_MEMORY:.0f}")
        rows[name] = row | {"peak_gb": peak}
        print(f"smoke: {name}: {json.dumps(rows[name])}", flush=True)
    return {"checks": rows, "faults": faults}


def differences(losses: dict[str, list[float]], expected: dict[str, list[float]]) -> dict[str, float]:
    """The largest difference of a step's loss from the expected one, relative to it, in each run."""
    return {
        run: max(abs(loss - right) / abs(right) for loss, right in zip(losses[run], rights, strict=True))
        for run, rights in expected.items()
    }


def _small_losses(bench: Bench, name: str) -> dict[str, list[float]]:
    """Losses of SFT on dequantised and on quantised layers, and of DPO on the CPU's adapter."""
    folder = bench.work / SMALL_FOLDER
    small = replace(bench, size=SMALL, work=folder)
    # Each device draws its own dropout.
    changes = {"learning_rate": LEARNING_RATE, "lora": bench.given["sft"]["lora"] | {"dropout": 0.0}}
    return {
        "sft": _train_sft(small, folder / name, **changes),
        "sft on quantised layers": _train_sft(small, folder / "quantised", dequantised=False, **changes),
        "dpo": _train_dpo(small, folder / "dpo", learning_rate=LEARNING_RATE),
    }


def _train_sft(bench: Bench, out: Path, **changes: Any) -> list[float]:
    section = bench.given["sft"]
    batch = section["micro_batch_size"]
    params = sections.SftParams(**section | {"max_length": bench.size.length, "batch_size": batch} | changes)
    curve = bench.work / "smoke.tsv"
    sft.train(bench.work / "base", bench.examples(STEPS * batch), params, bench.dtype, 0, out, curve)
    return fine_tuning.read_curve(curve)["loss"]


def _train_dpo(bench: Bench, out: Path, **changes: Any) -> list[float]:
    section = bench.given["dpo"]
    batch = section["micro_batch_size"]
    params = sections.DpoParams(**section | {"max_length": bench.size.length, "batch_size": batch} | changes)
    base, adapter, curve = bench.work / "base", bench.work / "adapter", bench.work / "smoke.tsv"
    dpo.train(base, adapter, bench.pairs(STEPS * batch), params, bench.dtype, 0, out, curve)
    return fine_tuning.read_curve(curve)["loss"]


def _compare(bench: Bench) -> dict[str, Any]:
    expected = json.loads((bench.work / "cpu.json").read_text(encoding="utf-8"))
    shares = differences(_small_losses(bench, "adapter of the GPU"), expected)
    faults = [f"{run} is {share:.1%} from a CPU's loss" for run, share in shares.items() if share > TOLERANCE]
    return {"loss_differences": shares, "faults": faults}


def _layers(bench: Bench) -> dict[str, Any]:
    base = bench.work / "base"
    before = _kernels(model.load(base, bench.dtype))
    _free()
    after = _kernels(model.load(base, bench.dtype, dequantised=True))
    expected = 7 * bench.size.base.layers
    fault = f"{len(before)} quantised layers, {len(after)} left when dequantised; expected {expected} and 0"
    return {
        "replaced": len(before) - len(after),
        "kernels": sorted(set(before)),
        "faults": [] if (len(before), after) == (expected, []) else [fault],
    }


def _kernels(loaded: Any) -> list[str]:
    """The kernel of each quantised layer."""
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    return [type(layer).__name__ for layer in loaded.modules() if isinstance(layer, BaseQuantLinear)]


def _sft(bench: Bench) -> dict[str, Any]:
    losses = _train_sft(bench, bench.work / "adapter")
    return {"first_loss": losses[0], "last_loss": losses[-1]}


def _dpo(bench: Bench) -> dict[str, Any]:
    losses = _train_dpo(bench, bench.work / "dpo")
    return {"first_loss": losses[0], "last_loss": losses[-1]}


def _generate(bench: Bench) -> dict[str, Any]:
    from medqa.engines import transformers_engine

    rows, section = bench.given["compute"]["generate_batch_size"], bench.given["generate"]
    loaded = model.load_merged(bench.work / "base", bench.dtype, bench.work / "adapter")
    engine = transformers_engine.TransformersEngine(loaded, model.tokenizer(bench.work / "base"), rows)
    requests = [
        Request(str(row), prompts.ask(question), sample_seed(0, str(row), 0))
        for row, question in enumerate(bench.questions(rows))
    ]
    most = min(NEW_TOKENS, bench.size.new_tokens)
    sampling = Sampling(temperature=section["temperature"], top_p=section["top_p"], max_new_tokens=most)
    tokens = [answer.tokens for _, answer in engine.generate(requests, sampling)]
    fault = f"answers of {tokens} tokens, each has to have {most}"
    return {"tokens": sum(tokens), "faults": [] if set(tokens) == {most} else [fault]}


def _judge(bench: Bench) -> dict[str, Any]:
    from medqa.engines import transformers_engine

    folder = bench.work / "judge"
    params = sections.JudgeParams(**bench.given["judge"] | {"min_mass": 0.0})
    loaded = model.load_merged(folder, bench.dtype)
    engine = transformers_engine.TransformersEngine(
        loaded, model.tokenizer(folder), bench.given["compute"]["judge_batch_size"]
    )
    scores = [score.score for score in judge.score(engine, bench.cases(2), params).values()]
    return {"scores": scores, "faults": ["an answer came out unscored"] if None in scores else []}


def _free() -> None:
    """Give back what the last step took, and count the peak anew."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


CHECKS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "losses": _compare,
    "layers": _layers,
    "sft": _sft,  # its adapter is what the next two work on
    "dpo": _dpo,
    "generate": _generate,
    "judge": _judge,
}
