"""The models and rows that are measured: the pipeline's own, and a larger model with random weights.

`tiny` is of the second kind, small enough for a test.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import runs
from medqa import jsonl, prompts
from medqa.records import Candidate, Example, Pair, Question
from medqa.runtime import environment, errors, sections
from medqa.runtime.params import read_params

SEED = 0
SCALE = 10  # of random weights, times their initial size
ROWS = 512  # of random text; a benchmark that needs more gets them again under other ids
FOLDER = environment.scratch_root() / "bench"  # of the random models, made once


@dataclass(frozen=True)
class Shape:
    """A random model and the words of its rows."""

    vocabulary: int
    width: int
    layers: int
    question: tuple[int, int]  # words, from and to
    answer: tuple[int, int]
    new_tokens: int


SHAPES = {
    "random": Shape(16_000, 512, 8, question=(20, 100), answer=(30, 150), new_tokens=48),
    "tiny": Shape(600, 128, 2, question=(3, 6), answer=(2, 8), new_tokens=4),
}


@dataclass(frozen=True)
class Workload:
    """Models and rows. The two candidates of a question follow each other."""

    name: str
    base: Path
    adapter: Path
    judge: Path
    dtype: str  # of generation and judging; training is in float32
    sampling: sections.GenerateParams
    judging: sections.JudgeParams
    compute: sections.ComputeParams
    examples: Sequence[Example]
    questions: Sequence[Question]
    candidates: Sequence[Candidate]
    pairs: Sequence[Pair]


def take(rows: Sequence[Any], count: int) -> list[Any]:
    """So many rows, from the first again after the last; ids stay unique."""
    return [
        replace(rows[number % len(rows)], id=f"{rows[number % len(rows)].id}+{number // len(rows)}")
        for number in range(count)
    ]


def load(name: str) -> Workload:
    """The workload of this name. Raises UserError if the embedded models are needed and missing."""
    return _embedded() if name == "embedded" else _random(name, SHAPES[name])


def _embedded() -> Workload:
    """The pipeline's own models and rows, as `dvc repro pairs` writes them."""
    params, data, models = read_params(), Path("data"), Path("models")
    kinds = {"sft": Example, "questions": Question, "candidates": Candidate, "pairs": Pair}
    missing = [path for path in (data / f"{name}.jsonl" for name in kinds) if not path.is_file()]
    if missing:
        raise errors.UserError(f"{missing[0]} is not there; run dvc repro pairs")
    examples, questions, candidates, pairs = (
        jsonl.read_all(data / f"{name}.jsonl", kind) for name, kind in kinds.items()
    )
    # Rows are sorted by id, and so by kind of question.
    order = random.Random(SEED)
    order.shuffle(examples), order.shuffle(questions), order.shuffle(pairs)
    by_question = [candidates[start : start + 2] for start in range(0, len(candidates), 2)]
    order.shuffle(by_question)
    return Workload(
        name="embedded",
        base=models / "base",
        adapter=models / "sft",
        judge=models / "judge",
        dtype=params.dtype,
        sampling=params.generate,
        judging=params.judge,
        compute=params.compute.model_copy(update={"row_cache": False}),
        examples=examples,
        questions=questions,
        candidates=[row for rows in by_question for row in rows],
        pairs=pairs,
    )


def random_rows(shape: Shape) -> tuple[list[Question], list[Candidate]]:
    """Random questions with references, and two random answers to each."""
    rng = random.Random(SEED)
    words = lexicon(shape.vocabulary, rng)

    def text(length: tuple[int, int]) -> str:
        # Zipf's law, as in any language: a word's frequency falls with its rank.
        ranks = (int(rng.paretovariate(0.5)) for _ in range(rng.randint(*length)))
        return " ".join(words[min(len(words) - 1, rank)] for rank in ranks)

    questions = [Question(f"{number:04}", text(shape.question), text(shape.answer)) for number in range(ROWS)]
    candidates = [
        Candidate(
            f"{row.id}#{sample}", row.id, sample, row.question, row.reference, text(shape.answer), "stop"
        )
        for row in questions
        for sample in (0, 1)
    ]
    return questions, candidates


def _random(name: str, shape: Shape) -> Workload:
    folder = FOLDER / f"{name}-{zlib.crc32(repr(shape).encode()):08x}"
    questions, candidates = random_rows(shape)
    if not folder.is_dir():
        _write_models(shape, [row.text for row in candidates], folder)
    return Workload(
        name=name,
        base=folder / "base",
        adapter=folder / "adapter",
        judge=folder / "judge",
        dtype="bfloat16" if runs.has_bfloat16() else "float32",
        sampling=sections.GenerateParams(n=2, temperature=0.7, top_p=0.95, max_new_tokens=shape.new_tokens),
        judging=sections.JudgeParams(
            method="grades",
            template="judge",
            criteria=sections.Criteria(accuracy=1, completeness=1, key_points=1),
            min_mass=0,
            max_chars=10_000,
        ),
        compute=sections.ComputeParams(
            generate_batch_size=32,
            judge_batch_size=32,
            engine="transformers",
            servers={},
            max_failed_rows=0,
            row_cache=False,
            cluster=None,
            processes=1,
            process_cores=None,
            process_gpus=None,
            checkpoint_minutes=60,
            tracking=None,
        ),
        examples=[Example(row.id, "open", row.question, row.reference) for row in questions],
        questions=questions,
        candidates=candidates,
        pairs=[
            Pair(better.question_id, better.question, better.text, worse.text, 0.9, 0.1)
            for better, worse in zip(candidates[::2], candidates[1::2], strict=True)
        ],
    )


def lexicon(count: int, rng: random.Random) -> list[str]:
    """Random words, at most so many, the shortest first."""
    vowels = ("a", "e", "i", "o", "u", "an", "er")
    syllables = [first + second for first in "bcdfghklmnprstvz" for second in vowels]
    words = {"".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(count)}
    return sorted(words, key=lambda word: (len(word), word))


def _write_models(shape: Shape, texts: list[str], folder: Path) -> None:
    """Write a base quantised by GPTQ, an adapter that changes its answers, and a judge."""
    import torch
    from peft import LoraConfig, get_peft_model

    from medqa import model
    from medqa.miniature import quantise, scratch
    from medqa.runtime.folders import atomic_folder
    from medqa.training import fine_tuning

    rubric = (Path(prompts.__file__).parent / "judge.txt").read_text(encoding="utf-8")
    tokenizer = scratch.tokenizer([*texts, *[rubric] * 9], shape.vocabulary)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=fine_tuning.TARGETS, init_lora_weights=False)
    with atomic_folder(folder) as staged:
        base = scratch.model(tokenizer, shape.width, shape.layers, 64, SEED)
        with torch.no_grad():
            # With initial weights all answers are nearly alike, and a comparison would show nothing.
            for weight in base.model.layers.parameters():
                weight.mul_(SCALE)
        quantise.quantise(base, tokenizer, texts[:32], staged / "base")
        torch.manual_seed(SEED)
        get_peft_model(model.load(staged / "base", "float32"), lora).save_pretrained(staged / "adapter")
        judge = scratch.model(tokenizer, shape.width, shape.layers, 64, SEED + 1)
        judge.save_pretrained(staged / "judge")
        tokenizer.save_pretrained(staged / "judge")
