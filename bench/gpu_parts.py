"""The parts of bench.gpu: how each is measured, beside the loop that a notebook would have or TRL's defaults."""

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.gpu_sizes import Bench, Size
from medqa import chat, dpo, judge, model, prompts, sft
from medqa.engines import Request, Sampling, sample_seed
from medqa.runtime import sections
from medqa.training import fine_tuning

MOST_MEMORY = 8.0  # GB, of training, and with the preset's batches of all else


def _training(train: Callable[[int], None], size: Size, tokens: int) -> dict[str, Any]:
    """By the seconds that more rows take longer, so that loading does not count; a row has `tokens`."""
    seconds = _marginal(train, size)
    return {
        "per_second": tokens / seconds,
        "tokens_per_second": tokens / seconds,
        "questions_per_second": 1 / seconds,
        "peak_gb": peak_memory(),
        "most_memory_gb": MOST_MEMORY,
    }


def _marginal(train: Callable[[int], None], size: Size) -> float:
    if size.few:
        train(size.few)  # whatever is compiled or tuned once
    few = timed(lambda: train(size.few))[0] if size.few else 0.0
    many = timed(lambda: train(size.many))[0]
    if many <= few:
        raise RuntimeError(
            f"{size.many} rows took no longer than {size.few}: the machine is too busy to measure on"
        )
    return (many - few) / (size.many - size.few)


def _trained(trainer: Any, config: Any, loaded: Any, bench: Bench, turns: list[dict], **others: Any) -> None:
    """Train with TRL's defaults, but for the length of a row, one epoch, and what it would print and save."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as folder:
        quiet = {
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": model.device() == "cpu",
        }
        args = config(output_dir=folder, max_length=bench.size.length, num_train_epochs=1, **quiet)
        tok = model.tokenizer(bench.work / "base")
        data = Dataset.from_list(turns)
        trainer(model=loaded, args=args, train_dataset=data, processing_class=tok, **others).train()


def _write(loaded: Any, tok: Any, asked: prompts.Messages, most: int, how: dict[str, Any]) -> int:
    """Write one answer as a notebook does; how many tokens it has."""
    text = tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    given = tok(text, return_tensors="pt").to(loaded.device)
    told = loaded.generate(**given, max_new_tokens=most, pad_token_id=tok.pad_token_id, **how)
    return told.shape[1] - given.input_ids.shape[1]


def _tree_tokens(tok: Any, asked: Sequence[Sequence[prompts.Messages]]) -> int:
    """Tokens that have to be read when a prefix is read once."""

    flat = [messages for criteria in asked for messages in criteria]
    texts = [
        tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for messages in flat
    ]
    rows = sorted(tok(texts, add_special_tokens=False).input_ids)
    shared = [0, *(chat.common_prefix(*pair) for pair in zip(rows, rows[1:], strict=False))]
    return sum(len(row) - same for row, same in zip(rows, shared, strict=True))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of a run, until the GPU is done with it, and what it gives."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - started, result


def peak_memory() -> float:
    """GB of the GPU that tensors have taken at most, or of memory where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure_sft(bench: Bench) -> dict[str, Any]:
    """Tokens a second of SFT on rows of full length, with its peak memory."""
    size = bench.size
    rows = bench.examples(size.many)
    params = sections.SftParams(
        **bench.given["sft"] | {"max_length": size.length, "batch_size": 4, "micro_batch_size": 4}
    )
    base, out, curve = bench.work / "base", bench.work / "adapter", bench.work / "sft.tsv"
    return _training(
        lambda count: sft.train(base, rows[:count], params, bench.dtype, 0, out, curve),
        size,
        tokens=size.length,
    )


def measure_trl_sft(bench: Bench) -> dict[str, Any]:
    """Seconds a row of TRL's defaults on the rows of `measure_sft`."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    section = bench.given["sft"]["lora"]
    lora = LoraConfig(
        r=section["r"], lora_alpha=section["alpha"], task_type="CAUSAL_LM", target_modules=fine_tuning.TARGETS
    )
    rows = bench.examples(bench.size.many)
    turns = [{"prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in rows]

    def train(count: int) -> None:
        loaded = model.load(bench.work / "base", bench.dtype)
        _trained(SFTTrainer, SFTConfig, loaded, bench, turns[:count], peft_config=lora)

    return {"seconds_per_row": _marginal(train, bench.size)}


def measure_dpo(bench: Bench) -> dict[str, Any]:
    """Tokens a second of DPO on pairs of two answers of full length; else as `measure_sft`."""
    size = bench.size
    pairs = bench.pairs(size.many)
    params = sections.DpoParams(
        **bench.given["dpo"] | {"max_length": size.length, "batch_size": 4, "micro_batch_size": 4}
    )
    base, adapter, out, curve = (bench.work / name for name in ("base", "adapter", "dpo", "dpo.tsv"))
    return _training(
        lambda count: dpo.train(base, adapter, pairs[:count], params, bench.dtype, 0, out, curve),
        size,
        tokens=2 * size.length,
    )


def measure_trl_dpo(bench: Bench) -> dict[str, Any]:
    """Seconds a pair of TRL's defaults on the pairs of `measure_dpo`."""
    from trl import DPOConfig, DPOTrainer

    turns = [
        {
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in bench.pairs(bench.size.many)
    ]

    def train(count: int) -> None:
        loaded = model.load(bench.work / "base", bench.dtype, bench.work / "adapter", trainable=True)
        _trained(DPOTrainer, DPOConfig, loaded, bench, turns[:count])

    return {"seconds_per_row": _marginal(train, bench.size)}


def measure_generate(bench: Bench) -> dict[str, Any]:
    """Tokens a second of two answers to each question, and of a loop that writes one answer at a time."""
    from medqa.engines import transformers_engine

    size, given = bench.size, bench.given["generate"]
    base, adapter = bench.work / "base", bench.work / "adapter"
    requests = [
        Request(f"{row}#{sample}", prompts.ask(question), sample_seed(0, str(row), sample))
        for row, question in enumerate(bench.questions(size.questions))
        for sample in range(2)
    ]
    told = {name: given[name] for name in ("temperature", "top_p")}
    tok = model.tokenizer(base)
    engine = transformers_engine.TransformersEngine(
        model.load_merged(base, bench.dtype, adapter), tok, size.batch
    )
    list(engine.generate(requests[:2], Sampling(**told, max_new_tokens=2)))
    sampling = Sampling(**told, max_new_tokens=size.new_tokens)
    seconds, answers = timed(lambda: dict(engine.generate(requests, sampling)))
    peak = peak_memory()
    loaded = model.load(base, bench.dtype, adapter)
    plain = {"do_sample": True, "top_k": 0, **told}
    _write(loaded, tok, requests[0].messages, 2, plain)
    plainly, lengths = timed(
        lambda: [_write(loaded, tok, row.messages, size.plain_tokens, plain) for row in requests[:4]]
    )
    tokens = sum(answer.tokens for answer in answers.values())
    return {
        "per_second": tokens / seconds,
        "tokens_per_second": tokens / seconds,
        "questions_per_second": size.questions / seconds,
        "over_plain": tokens / seconds / (sum(lengths) / plainly),
        "peak_gb": peak,
    }


def measure_judge(bench: Bench) -> dict[str, Any]:
    """Pairs a second, two answers by three criteria each, and of a loop whose judge writes up to 64 tokens."""
    from medqa.engines import transformers_engine

    size, folder = bench.size, bench.work / "judge"
    params = sections.JudgeParams(**bench.given["judge"] | {"min_mass": 0.0})
    cases = bench.cases(size.pairs)
    loaded, tok = model.load_merged(folder, bench.dtype), model.tokenizer(folder)
    texts = [(case.question, case.reference, case.answer) for case in cases]
    asked = [list(prompts.judge(params.template, *each).values()) for each in texts]
    plain = {"do_sample": False}
    _write(loaded, tok, asked[0][0], 2, plain)
    some = [messages for criteria in asked[:2] for messages in criteria]
    plainly, _ = timed(lambda: [_write(loaded, tok, one, min(64, size.plain_tokens), plain) for one in some])
    engine = transformers_engine.TransformersEngine(
        loaded, tok, 4 * bench.given["compute"]["judge_batch_size"]
    )
    judge.score(engine, cases[:2], params)
    seconds, scores = timed(lambda: judge.score(engine, cases, params))
    if not all(score.score is not None for score in scores.values()):
        raise AssertionError("an answer came out unscored")
    return {
        "per_second": size.pairs / seconds,
        "tokens_per_second": _tree_tokens(tok, asked) / seconds,
        "questions_per_second": size.pairs / seconds,
        "over_plain": size.pairs / seconds * plainly,
        "peak_gb": peak_memory(),
    }


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "sft": measure_sft,  # its adapter is what the next two work on
    "dpo": measure_dpo,
    "generate": measure_generate,
    "judge": measure_judge,
}
PEERS: dict[str, Callable[[Bench], dict[str, Any]]] = {"trl-sft": measure_trl_sft, "trl-dpo": measure_trl_dpo}
