"""Speed and memory of training, generating and judging at real size on a GPU: `python -m bench.gpu`, table last.

Random-weight models of the real preset's shapes, in its dtype and with its settings, beside the loop that a notebook
would have and beside TRL's defaults. Shares are of the arithmetic floor: the time that the operations a token needs
take at the rate of a large matrix product, measured here. `--small` tries the script on a CPU and measures nothing.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml

from bench import checkpoints
from medqa import dpo, embedded, judge, model, prompts, records, sft, training
from medqa.engines import Sampling, sample_seed

ROOT = Path(__file__).parent.parent
QUESTIONS = 109_353  # of UltraMedical-Preference
# Operations a weight and a token: a forward pass takes 2, a backward pass 4, and checkpointing a forward pass more.
# DPO has the reference's forward pass besides.
OPERATIONS = {"sft": 8, "dpo": 10, "generate": 2, "judge": 2}
TARGETS = {"sft": 0.35, "dpo": 0.30, "generate": 0.25, "judge": 0.40}  # shares of the floor's rate
UNITS = {"sft": "tokens/s", "dpo": "tokens/s", "generate": "tokens/s", "judge": "pairs/s"}
MOST_MEMORY = 8.0  # GB, of training


@dataclass(frozen=True)
class Size:
    """How much is measured: model shapes, and rows, tokens and batches of each part."""

    base: checkpoints.Shape
    judge: checkpoints.Shape
    product: int  # width of the matrices whose product is timed
    length: int  # tokens of a training row
    few: int  # training rows of the run that is taken off, so that loading does not count; 0 takes nothing off
    many: int
    questions: int
    new_tokens: int
    batch: int  # answers written at once
    plain_tokens: int  # of an answer in the plain loop
    pairs: int
    words: int  # of a judged answer


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


@dataclass(frozen=True)
class Bench:
    """What every part works with: sizes, the preset's parameters, and the folder of the models."""

    size: Size
    given: dict[str, Any]
    work: Path

    @property
    def dtype(self) -> str:
        return self.given["dtype"]

    def text(self, number: int, words: int) -> str:
        """The embedded textbook from its sentence `number` on, so many words of it."""
        told = embedded.textbook(embedded.topics(checkpoints.CORPUS))
        return " ".join(" ".join(islice(cycle(told[number:] + told[:number]), words)).split()[:words])

    def questions(self, count: int) -> list[str]:
        """So many different questions of the embedded corpus."""
        return [topic.question(0) for topic in islice(embedded.topics(checkpoints.CORPUS), count)]


def prepare(size: Size, work: Path) -> None:
    """Write both models to the folder."""
    for name, shape in (("base", size.base), ("judge", size.judge)):
        tok = checkpoints.tokenizer(shape.vocabulary)
        checkpoints.write(shape, tok, quantised=name == "base", seed=0, out=work / name)


def measure_sft(bench: Bench) -> dict[str, Any]:
    """Tokens a second of SFT on rows of full length, with its peak memory, and of TRL's defaults on the same rows."""
    size = bench.size
    asked = bench.questions(size.many)
    rows = [
        records.Example(f"{n:03}", "open", question, bench.text(n, size.length)) for n, question in enumerate(asked)
    ]
    params = sft.Params(**bench.given["sft"] | {"max_length": size.length, "batch_size": 4, "micro_batch_size": 4})
    base, out = bench.work / "base", bench.work / "adapter"

    def ours(count: int) -> None:
        sft.train(base, rows[:count], params, bench.dtype, 0, out, bench.work / "sft.tsv")

    def peer(count: int) -> None:
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        lora = LoraConfig(
            r=params.lora.r, lora_alpha=params.lora.alpha, task_type="CAUSAL_LM", target_modules=training.TARGETS
        )
        turns = [{"prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in rows[:count]]
        _trained(SFTTrainer, SFTConfig, model.load(base, bench.dtype), bench, turns, peft_config=lora)

    return _training(ours, peer, size, tokens=size.length)


def measure_dpo(bench: Bench) -> dict[str, Any]:
    """Tokens a second of DPO on pairs of two answers of full length; else as `measure_sft`."""
    size = bench.size
    asked = bench.questions(size.many)
    pairs = [
        records.Pair(f"{n:03}", question, bench.text(n, size.length), bench.text(n + 7, size.length), 1.0, 0.0)
        for n, question in enumerate(asked)
    ]
    params = dpo.Params(**bench.given["dpo"] | {"max_length": size.length, "batch_size": 4, "micro_batch_size": 4})
    base, adapter = bench.work / "base", bench.work / "adapter"

    def ours(count: int) -> None:
        out, curve = bench.work / "dpo", bench.work / "dpo.tsv"
        dpo.train(base, adapter, pairs[:count], params, bench.dtype, 0, out, curve)

    def peer(count: int) -> None:
        from trl import DPOConfig, DPOTrainer

        turns = [
            {
                "prompt": prompts.ask(pair.question),
                "chosen": prompts.reply(pair.chosen),
                "rejected": prompts.reply(pair.rejected),
            }
            for pair in pairs[:count]
        ]
        _trained(DPOTrainer, DPOConfig, model.load(base, bench.dtype, adapter, trainable=True), bench, turns)

    return _training(ours, peer, size, tokens=2 * size.length)


def measure_generate(bench: Bench) -> dict[str, Any]:
    """Tokens a second of two answers to each question, and of a loop that writes one answer at a time."""
    from medqa import local

    size, given = bench.size, bench.given["generate"]
    base, adapter = bench.work / "base", bench.work / "adapter"
    asked = [prompts.ask(question) for question in bench.questions(size.questions) for _ in range(2)]
    seeds = [sample_seed(0, str(place // 2), place % 2) for place in range(len(asked))]
    told = {name: given[name] for name in ("temperature", "top_p")}
    tok = model.tokenizer(base)
    engine = local.Transformers(model.load_merged(base, bench.dtype, adapter), tok, size.batch)
    engine.generate(asked[:2], Sampling(**told, max_new_tokens=2), seeds[:2])
    sampling = Sampling(**told, max_new_tokens=size.new_tokens)
    seconds, answers = _timed(lambda: engine.generate(asked, sampling, seeds))
    peak = _peak()
    loaded = model.load(base, bench.dtype, adapter)
    plain = {"do_sample": True, "top_k": 0, **told}
    _write(loaded, tok, asked[0], 2, plain)
    plainly, lengths = _timed(lambda: [_write(loaded, tok, one, size.plain_tokens, plain) for one in asked[:4]])
    tokens = sum(answer.tokens for answer in answers)
    return {
        "per_second": tokens / seconds,
        "tokens_per_second": tokens / seconds,
        "questions_per_second": size.questions / seconds,
        "over_plain": tokens / seconds / (sum(lengths) / plainly),
        "peak_gb": peak,
    }


def measure_judge(bench: Bench) -> dict[str, Any]:
    """Pairs a second, two answers by three criteria each, and of a loop whose judge writes up to 64 tokens."""
    from medqa import local

    size, folder = bench.size, bench.work / "judge"
    params = judge.Params(**bench.given["judge"] | {"min_mass": 0.0})
    cases = [
        (question, bench.text(n, size.words), bench.text(n + other, size.words))
        for n, question in enumerate(bench.questions(size.pairs))
        for other in (1, 2)
    ]
    loaded, tok = model.load_merged(folder, bench.dtype), model.tokenizer(folder)
    asked = [list(prompts.judge(params.template, *case).values()) for case in cases]
    plain = {"do_sample": False}
    _write(loaded, tok, asked[0][0], 2, plain)
    some = [messages for criteria in asked[:2] for messages in criteria]
    plainly, _ = _timed(lambda: [_write(loaded, tok, one, min(64, size.plain_tokens), plain) for one in some])
    engine = local.Transformers(loaded, tok, 4 * bench.given["compute"]["judge_batch_size"])
    judge.score(engine, cases[:2], params)
    seconds, scores = _timed(lambda: judge.score(engine, cases, params))
    if not all(score.score is not None for score in scores):
        raise AssertionError("an answer came out unscored")
    return {
        "per_second": size.pairs / seconds,
        "tokens_per_second": _tree_tokens(tok, asked) / seconds,
        "questions_per_second": size.pairs / seconds,
        "over_plain": size.pairs / seconds * plainly,
        "peak_gb": _peak(),
    }


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "sft": measure_sft,  # its adapter is what the next two work on
    "dpo": measure_dpo,
    "generate": measure_generate,
    "judge": measure_judge,
}


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
    return max(2 * width**3 / _timed(lambda: one @ other)[0] for _ in range(5))


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


def _training(ours: Callable[[int], None], peer: Callable[[int], None], size: Size, tokens: int) -> dict[str, Any]:
    """Both by the seconds that more rows take longer, so that loading counts in neither; a row has `tokens`."""
    if size.few:
        ours(size.few)  # whatever is compiled once
    row_seconds = _marginal(ours, size)
    peak = _peak()
    peer_seconds = _marginal(peer, size)
    return {
        "per_second": tokens / row_seconds,
        "tokens_per_second": tokens / row_seconds,
        "questions_per_second": 1 / row_seconds,
        "over_trl": peer_seconds / row_seconds,
        "peak_gb": peak,
        "most_memory_gb": MOST_MEMORY,
    }


def _marginal(train: Callable[[int], None], size: Size) -> float:
    few = _timed(lambda: train(size.few))[0] if size.few else 0.0
    many = _timed(lambda: train(size.many))[0]
    if many <= few:
        raise RuntimeError(f"{size.many} rows took no longer than {size.few}: the machine is too busy to measure on")
    return (many - few) / (size.many - size.few)


def _trained(trainer: Any, config: Any, loaded: Any, bench: Bench, turns: list[dict], **others: Any) -> None:
    """Train with TRL's defaults, but for the length of a row, one epoch, and what it would print and save."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as folder:
        quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": model.device() == "cpu"}
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
    from medqa import tree

    flat = [messages for criteria in asked for messages in criteria]
    texts = [tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for messages in flat]
    rows = sorted(tok(texts, add_special_tokens=False).input_ids)
    shared = [0, *(tree.shared(*pair) for pair in zip(rows, rows[1:], strict=False))]
    return sum(len(row) - same for row, same in zip(rows, shared, strict=True))


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - started, result


def _peak() -> float:
    """GB of the GPU that tensors have taken at most, or of memory where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


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
