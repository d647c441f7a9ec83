"""The parts of bench.gpu: how each is measured, beside a notebook's loop or TRL's defaults."""

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench import peers
from bench.gpu_sizes import Bench, Size
from medqa import chat, curves, dpo, judge, model, prompts, sft
from medqa.engines import Request, Sampling, sample_seed
from medqa.engines.transformers_engine import TransformersEngine
from medqa.records import Example, Pair
from medqa.runtime import sections
from medqa.training.fine_tuning import TrainingJob

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

T = TypeVar("T")
MAX_MEMORY = 8.0  # GB, of training, and of everything else with the preset's batches
BATCH = {"batch_size": 4, "micro_batch_size": 4}  # of training


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """The seconds of a run, until the GPU is done with it, and its result."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - started, result


def peak_memory() -> float:
    """The peak GB of tensors on the GPU, or of this process where there is no GPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def seconds_per_row(train: Callable[[int], object], size: Size, clock: Callable = timed) -> float:
    """How much longer a run takes per additional row, so that loading does not count."""
    if size.few:
        train(size.few)  # whatever is compiled or tuned once
    few = clock(lambda: train(size.few))[0] if size.few else 0.0
    many = clock(lambda: train(size.many))[0]
    if many <= few:
        raise RuntimeError(
            f"{size.many} rows took no longer than {size.few}: the machine is too busy to measure on"
        )
    return (many - few) / (size.many - size.few)


def train_sft(bench: Bench, examples: Sequence[Example], out: Path, **changes: Any) -> list[float]:
    """Train an adapter on the base with the preset's parameters but for changes; the losses of the steps."""
    params = sections.SftParams(**bench.params["sft"] | {"max_length": bench.size.length} | changes)
    curve = bench.work / "curve.tsv"
    sft.train(TrainingJob("sft", bench.work / "base", params, bench.dtype, 0, out, curve), examples)
    return curves.read_curve(curve)["loss"]


def train_dpo(bench: Bench, pairs: Sequence[Pair], out: Path, **changes: Any) -> list[float]:
    """Train the adapter of SFT on pairs, as `train_sft` does on examples."""
    params = sections.DpoParams(**bench.params["dpo"] | {"max_length": bench.size.length} | changes)
    curve = bench.work / "curve.tsv"
    job = TrainingJob("dpo", bench.work / "base", params, bench.dtype, 0, out, curve)
    dpo.train(job, bench.work / "adapter", pairs)
    return curves.read_curve(curve)["loss"]


def measure_sft(bench: Bench) -> dict[str, Any]:
    """Tokens per second of SFT on rows of full length, with its peak memory."""
    examples = bench.examples(bench.size.many)
    return _training_result(
        lambda count: train_sft(bench, examples[:count], bench.work / "adapter", **BATCH),
        bench.size,
        row_tokens=bench.size.length,
    )


def measure_dpo(bench: Bench) -> dict[str, Any]:
    """Tokens per second of DPO on pairs of two answers of full length, as in `measure_sft`."""
    pairs = bench.pairs(bench.size.many)
    return _training_result(
        lambda count: train_dpo(bench, pairs[:count], bench.work / "dpo", **BATCH),
        bench.size,
        row_tokens=2 * bench.size.length,
    )


def _training_result(train: Callable[[int], object], size: Size, row_tokens: int) -> dict[str, Any]:
    seconds = seconds_per_row(train, size)
    return {
        "per_second": row_tokens / seconds,
        "tokens_per_second": row_tokens / seconds,
        "questions_per_second": 1 / seconds,
        "peak_gb": peak_memory(),
        "most_memory_gb": MAX_MEMORY,
    }


def measure_trl_sft(bench: Bench) -> dict[str, Any]:
    """Seconds per row of TRL's defaults on the rows of `measure_sft`."""
    from trl import SFTConfig, SFTTrainer

    rows = peers.sft_rows(bench.examples(bench.size.many))
    section = bench.params["sft"]["lora"]

    def train(count: int) -> None:
        base = model.load(bench.work / "base", bench.dtype)
        lora = peers.lora_config(section["r"], section["alpha"])
        _train_trl(SFTTrainer, SFTConfig, base, bench, rows[:count], peft_config=lora)

    return {"seconds_per_row": seconds_per_row(train, bench.size)}


def measure_trl_dpo(bench: Bench) -> dict[str, Any]:
    """Seconds per pair of TRL's defaults on the pairs of `measure_dpo`."""
    from trl import DPOConfig, DPOTrainer

    rows = peers.dpo_rows(bench.pairs(bench.size.many))

    def train(count: int) -> None:
        policy = model.load(bench.work / "base", bench.dtype, bench.work / "adapter", trainable=True)
        _train_trl(DPOTrainer, DPOConfig, policy, bench, rows[:count])

    return {"seconds_per_row": seconds_per_row(train, bench.size)}


def _train_trl(
    trainer: "type[Trainer]",
    config: Callable[..., Any],
    policy: "PreTrainedModel",
    bench: Bench,
    rows: list[dict],
    **options: Any,
) -> None:
    """Train with TRL's defaults, but for the row length, one epoch, and its output."""
    from datasets import Dataset

    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        arguments = config(
            output_dir=folder,
            max_length=bench.size.length,
            num_train_epochs=1,
            use_cpu=model.device() == "cpu",
            **quiet,
        )
        data, tokenizer = Dataset.from_list(rows), model.tokenizer(bench.work / "base")
        trainer(
            model=policy, args=arguments, train_dataset=data, processing_class=tokenizer, **options
        ).train()


def measure_generate(bench: Bench) -> dict[str, Any]:
    """Tokens per second of two answers per question, and of a loop that writes one answer at a time."""
    size, section = bench.size, bench.params["generate"]
    base, adapter = bench.work / "base", bench.work / "adapter"
    requests = [
        Request(f"{row}#{sample}", prompts.ask(question), sample_seed(0, str(row), sample))
        for row, question in enumerate(bench.questions(size.questions))
        for sample in range(2)
    ]
    shape = {name: section[name] for name in ("temperature", "top_p")}
    tokenizer = model.tokenizer(base)
    engine = TransformersEngine(model.load_merged(base, bench.dtype, adapter), tokenizer, size.batch)
    list(engine.generate(requests[:2], Sampling(**shape, max_new_tokens=2)))
    sampling = Sampling(**shape, max_new_tokens=size.new_tokens)
    seconds, answers = timed(lambda: dict(engine.generate(requests, sampling)))
    peak = peak_memory()
    rate = sum(answer.tokens for answer in answers.values()) / seconds
    plain = {"do_sample": True, "top_k": 0, **shape}
    policy = model.load(base, bench.dtype, adapter)
    peers.write(policy, tokenizer, requests[0].messages, max_new_tokens=2, **plain)
    plain |= {"max_new_tokens": size.plain_tokens}
    plain_seconds, plain_answers = timed(
        lambda: [peers.write(policy, tokenizer, row.messages, **plain) for row in requests[:4]]
    )
    return {
        "per_second": rate,
        "tokens_per_second": rate,
        "questions_per_second": size.questions / seconds,
        "over_plain": rate / (sum(map(len, plain_answers)) / plain_seconds),
        "peak_gb": peak,
    }


def measure_judge(bench: Bench) -> dict[str, Any]:
    """Pairs per second, two answers by three criteria each, and of a judge that writes up to 64 tokens."""
    size, folder = bench.size, bench.work / "judge"
    params = sections.JudgeParams(**bench.params["judge"] | {"min_mass": 0.0})
    cases = bench.cases(size.pairs)
    grader, tokenizer = model.load_merged(folder, bench.dtype), model.tokenizer(folder)
    texts = [(case.question, case.reference, case.answer) for case in cases]
    messages = [list(prompts.judge(params.template, *each).values()) for each in texts]
    plain = {"do_sample": False, "max_new_tokens": min(64, size.plain_tokens)}
    peers.write(grader, tokenizer, messages[0][0], do_sample=False, max_new_tokens=2)
    first_pair = [prompt for criteria in messages[:2] for prompt in criteria]
    plain_seconds, _ = timed(
        lambda: [peers.write(grader, tokenizer, prompt, **plain) for prompt in first_pair]
    )
    engine = TransformersEngine(grader, tokenizer, 4 * bench.params["compute"]["judge_batch_size"])
    judge.score(engine, cases[:2], params)
    seconds, scores = timed(lambda: judge.score(engine, cases, params))
    if not all(score.score is not None for score in scores.values()):
        raise AssertionError("an answer came out unscored")
    return {
        "per_second": size.pairs / seconds,
        "tokens_per_second": _tree_tokens(tokenizer, messages) / seconds,
        "questions_per_second": size.pairs / seconds,
        "over_plain": size.pairs / seconds * plain_seconds,
        "peak_gb": peak_memory(),
    }


def _tree_tokens(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Sequence[prompts.Messages]]) -> int:
    """The tokens of the prompts if each common prefix is read once."""
    rows = sorted(peers.encode(tokenizer, prompt) for criteria in messages for prompt in criteria)
    common = [0, *(chat.common_prefix(*pair) for pair in zip(rows, rows[1:], strict=False))]
    return sum(len(row) - length for row, length in zip(rows, common, strict=True))


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "sft": measure_sft,  # the next two parts work on its adapter
    "dpo": measure_dpo,
    "generate": measure_generate,
    "judge": measure_judge,
}
PEERS: dict[str, Callable[[Bench], dict[str, Any]]] = {"trl-sft": measure_trl_sft, "trl-dpo": measure_trl_dpo}
