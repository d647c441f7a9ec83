"""The smoke test of bench.gpu for what only a GPU can break: losses beside a CPU's, then real sizes.

At small size the same rows train on a CPU and on the GPU. The learning rate lowers the loss by a seventh in
these steps: an adapter that does not learn, or a wrong gradient, shows. At real size the preset's own batches
are used.
"""

import gc
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench import checkpoints
from bench.gpu_parts import MAX_MEMORY, peak_memory, train_dpo, train_sft
from bench.gpu_sizes import SMALL, Bench
from medqa import judge, model, prompts
from medqa.engines import Request, Sampling, sample_seed
from medqa.engines.transformers_engine import TransformersEngine
from medqa.runtime import sections

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = 20
TOLERANCE = 0.02  # of each step's loss; bfloat16 beside float32 on one CPU differs by 0.004
LEARNING_RATE = 2e-3
NEW_TOKENS = 64
SMALL_FOLDER = "small"

Check = Callable[[Bench], dict[str, Any]]


def cpu_losses(bench: Bench) -> dict[str, list[float]]:
    """Write the small model; its losses on a CPU (the main process hides the GPUs)."""
    shape = SMALL.base
    tokenizer = checkpoints.tokenizer(shape.vocabulary)
    checkpoints.write(shape, tokenizer, quantised=True, seed=0, out=bench.work / SMALL_FOLDER / "base")
    return _small_losses(bench, "adapter")


def smoke(
    bench: Bench, checks: Mapping[str, Check] | None = None, peak: Callable[[], float] = peak_memory
) -> dict[str, Any]:
    """The result of each check with its peak memory in GB, and `faults`: what is not as it has to be.

    A check that fails ends none of the others.
    """
    rows, faults = {}, []
    for name, check in (CHECKS if checks is None else checks).items():
        _free_memory()
        try:
            row = check(bench)
        except Exception as error:
            traceback.print_exc()
            faults.append(f"{name}: {error!r}")
            continue
        faults += [f"{name}: {fault}" for fault in row.pop("faults", [])]
        rows[name] = row | {"peak_gb": peak()}
        if rows[name]["peak_gb"] > MAX_MEMORY:
            faults.append(f"{name}: {rows[name]['peak_gb']:.1f} GB, more than {MAX_MEMORY:.0f}")
        print(f"smoke: {name}: {json.dumps(rows[name])}", flush=True)
    return {"checks": rows, "faults": faults}


def differences(losses: dict[str, list[float]], expected: dict[str, list[float]]) -> dict[str, float]:
    """The largest relative difference of a step's loss from the expected one, in each run."""
    return {
        run: max(abs(loss - right) / abs(right) for loss, right in zip(losses[run], rights, strict=True))
        for run, rights in expected.items()
    }


def _small_losses(bench: Bench, adapter: str) -> dict[str, list[float]]:
    """Losses of SFT on dequantised and on quantised layers, and of DPO on the CPU's adapter."""
    folder = bench.work / SMALL_FOLDER
    small = replace(bench, size=SMALL, work=folder)
    # Each device would draw its own dropout.
    lora = bench.params["sft"]["lora"] | {"dropout": 0.0}
    changes = {"learning_rate": LEARNING_RATE, "lora": lora}
    return {
        "sft": _sft_losses(small, adapter, **changes),
        "sft on quantised layers": _sft_losses(small, "quantised", dequantised=False, **changes),
        "dpo": _dpo_losses(small, learning_rate=LEARNING_RATE),
    }


def _sft_losses(bench: Bench, adapter: str, **changes: Any) -> list[float]:
    batch = bench.params["sft"]["micro_batch_size"]
    examples = bench.examples(STEPS * batch)
    return train_sft(bench, examples, bench.work / adapter, batch_size=batch, **changes)


def _dpo_losses(bench: Bench, **changes: Any) -> list[float]:
    batch = bench.params["dpo"]["micro_batch_size"]
    return train_dpo(bench, bench.pairs(STEPS * batch), bench.work / "dpo", batch_size=batch, **changes)


def _check_losses(bench: Bench) -> dict[str, Any]:
    expected = json.loads((bench.work / "cpu.json").read_text(encoding="utf-8"))
    shares = differences(_small_losses(bench, "adapter of the GPU"), expected)
    faults = [f"{run} is {share:.1%} from a CPU's loss" for run, share in shares.items() if share > TOLERANCE]
    return {"loss_differences": shares, "faults": faults}


def _check_layers(bench: Bench) -> dict[str, Any]:
    base = bench.work / "base"
    before = _kernels(model.load(base, bench.dtype))
    _free_memory()
    after = _kernels(model.load(base, bench.dtype, dequantised=True))
    expected = 7 * bench.size.base.layers
    fault = f"{len(before)} quantised layers, {len(after)} left when dequantised; expected {expected} and 0"
    return {
        "replaced": len(before) - len(after),
        "kernels": sorted(set(before)),
        "faults": [] if (len(before), after) == (expected, []) else [fault],
    }


def _kernels(net: "PreTrainedModel") -> list[str]:
    """The kernel of each quantised layer."""
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    return [type(layer).__name__ for layer in net.modules() if isinstance(layer, BaseQuantLinear)]


def _check_sft(bench: Bench) -> dict[str, Any]:
    losses = _sft_losses(bench, "adapter")
    return {"first_loss": losses[0], "last_loss": losses[-1]}


def _check_dpo(bench: Bench) -> dict[str, Any]:
    losses = _dpo_losses(bench)
    return {"first_loss": losses[0], "last_loss": losses[-1]}


def _check_generate(bench: Bench) -> dict[str, Any]:
    rows, section = bench.params["compute"]["generate_batch_size"], bench.params["generate"]
    policy = model.load_merged(bench.work / "base", bench.dtype, bench.work / "adapter")
    engine = TransformersEngine(policy, model.tokenizer(bench.work / "base"), rows)
    requests = [
        Request(str(row), prompts.ask(question), sample_seed(0, str(row), 0))
        for row, question in enumerate(bench.questions(rows))
    ]
    limit = min(NEW_TOKENS, bench.size.new_tokens)
    sampling = Sampling(temperature=section["temperature"], top_p=section["top_p"], max_new_tokens=limit)
    tokens = [answer.tokens for _, answer in engine.generate(requests, sampling)]
    fault = f"answers of {tokens} tokens, each has to have {limit}"
    return {"tokens": sum(tokens), "faults": [] if set(tokens) == {limit} else [fault]}


def _check_judge(bench: Bench) -> dict[str, Any]:
    folder = bench.work / "judge"
    params = sections.JudgeParams(**bench.params["judge"] | {"min_mass": 0.0})
    grader, batch_size = model.load_merged(folder, bench.dtype), bench.params["compute"]["judge_batch_size"]
    engine = TransformersEngine(grader, model.tokenizer(folder), batch_size)
    scores = [score.score for score in judge.score(engine, bench.cases(2), params).values()]
    return {"scores": scores, "faults": ["an answer came out unscored"] if None in scores else []}


def _free_memory() -> None:
    """Give back the memory of the last step, and reset the peak."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


CHECKS: dict[str, Check] = {
    "losses": _check_losses,
    "layers": _check_layers,
    "sft": _check_sft,  # the next two checks work on its adapter
    "dpo": _check_dpo,
    "generate": _check_generate,
    "judge": _check_judge,
}
