"""What is run: the embedded models on the pipeline's own rows, and a larger model with random weights on
longer ones.

`tiny` is the second kind, small enough for a test.
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
ROOT = Path(__file__).parent.parent
LOUD = 10  # times the size that random weights are born with
ROWS = 512  # of random text; a benchmark that wants more gets them again under other ids
FOLDER = environment.scratch_root() / "bench"  # of the random models, made once


@dataclass(frozen=True)
class Shape:
    """A random model and the words of its rows."""

    vocabulary: int
    width: int
    layers: int
    question: tuple[int, int]
    answer: tuple[int, int]
    new_tokens: int


SHAPES = {
    "random": Shape(16_000, 512, 8, question=(20, 100), answer=(30, 150), new_tokens=48),
    "tiny": Shape(600, 128, 2, question=(3, 6), answer=(2, 8), new_tokens=4),
}


@dataclass(frozen=True)
class Workload:
    """Models and rows. Two candidates of a question stand side by side."""

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


def some(rows: Sequence[Any], count: int) -> list[Any]:
    """So many of the rows, again from the first where they end; ids stay unique."""
    return [
        replace(rows[place % len(rows)], id=f"{rows[place % len(rows)].id}+{place // len(rows)}")
        for place in range(count)
    ]


def named(name: str) -> Workload:
    """The workload of a name. Raises UserError if the embedded models are asked for and not there."""
    return embedded() if name == "embedded" else _random(name, SHAPES[name])


def embedded() -> Workload:
    """The pipeline's own models and rows, as `dvc repro pairs` leaves them."""
    params, data, models = read_params(), Path("data"), Path("models")
    kinds = {"sft": Example, "questions": Question, "candidates": Candidate, "pairs": Pair}
    missing = [path for path in (data / f"{name}.jsonl" for name in kinds) if not path.is_file()]
    if missing:
        raise errors.UserError(f"{missing[0]} is not there; run dvc repro pairs")
    examples, questions, candidates, pairs = (
        jsonl.read_all(data / f"{name}.jsonl", kind) for name, kind in kinds.items()
    )
    # Rows are sorted by id, and ids are of one kind of question after the other.
    order = random.Random(SEED)
    order.shuffle(examples), order.shuffle(questions), order.shuffle(pairs)
    by_question = [candidates[place : place + 2] for place in range(0, len(candidates), 2)]
    order.shuffle(by_question)
    return Workload(
        "embedded",
        models / "base",
        models / "sft",
        models / "judge",
        params.dtype,
        params.generate,
        params.judge,
        params.compute.model_copy(update={"row_cache": False}),
        examples,
        questions,
        [row for rows in by_question for row in rows],
        pairs,
    )


def written(shape: Shape) -> tuple[list[Question], list[Candidate]]:
    """Random questions with their references, and two random answers to each."""
    rng = random.Random(SEED)
    words = lexicon(shape.vocabulary, rng)

    def text(length: tuple[int, int]) -> str:
        # Zipf's law, as in any language: a word's frequency falls with its rank.
        return " ".join(
            words[min(len(words) - 1, int(rng.paretovariate(0.5)))] for _ in range(rng.randint(*length))
        )

    asked = [Question(f"{place:04}", text(shape.question), text(shape.answer)) for place in range(ROWS)]
    return asked, [
        Candidate(
            f"{row.id}#{sample}", row.id, sample, row.question, row.reference, text(shape.answer), "stop"
        )
        for row in asked
        for sample in (0, 1)
    ]


def _random(name: str, shape: Shape) -> Workload:
    folder = FOLDER / f"{name}-{zlib.crc32(repr(shape).encode()):08x}"
    asked, candidates = written(shape)
    if not folder.is_dir():
        _make(shape, [row.text for row in candidates], folder)
    return Workload(
        name,
        folder / "base",
        folder / "adapter",
        folder / "judge",
        "bfloat16" if runs.bfloat16() else "float32",
        sections.GenerateParams(n=2, temperature=0.7, top_p=0.95, max_new_tokens=shape.new_tokens),
        sections.JudgeParams(
            template="judge",
            criteria=sections.Criteria(accuracy=1, completeness=1, key_points=1),
            min_mass=0,
            max_chars=10_000,
        ),
        sections.ComputeParams(
            generate_batch_size=32,
            judge_batch_size=32,
            engine="transformers",
            servers={},
            max_failed_rows=0,
            row_cache=False,
            processes=1,
            checkpoint_minutes=60,
        ),
        [Example(row.id, "open", row.question, row.reference) for row in asked],
        asked,
        candidates,
        [
            Pair(one.question_id, one.question, one.text, other.text, 0.9, 0.1)
            for one, other in zip(candidates[::2], candidates[1::2], strict=True)
        ],
    )


def lexicon(count: int, rng: random.Random) -> list[str]:
    """Random words, at most so many, the shortest first."""
    syllables = [
        first + second for first in "bcdfghklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "er")
    ]
    words = {"".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(count)}
    return sorted(words, key=lambda word: (len(word), word))


def _make(shape: Shape, texts: list[str], folder: Path) -> None:
    """Write a base quantised by GPTQ, an adapter that changes what it says, and a judge."""
    import torch
    from peft import LoraConfig, get_peft_model

    from medqa import model
    from medqa.miniature import quantise, scratch
    from medqa.runtime.folders import atomic_folder
    from medqa.training import fine_tuning

    rubric = (Path(prompts.__file__).parent / "judge.txt").read_text(encoding="utf-8")
    tok = scratch.tokenizer([*texts, *[rubric] * 9], shape.vocabulary)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=fine_tuning.TARGETS, init_lora_weights=False)
    with atomic_folder(folder) as made:
        whole = scratch.model(tok, shape.width, shape.layers, 64, SEED)
        with torch.no_grad():
            # As they come, random weights say nearly the same everywhere, and a comparison would show
            # nothing.
            for weight in whole.model.layers.parameters():
                weight.mul_(LOUD)
        quantise.quantise(whole, tok, texts[:32], made / "base")
        torch.manual_seed(SEED)
        get_peft_model(model.load(made / "base", "float32"), lora).save_pretrained(made / "adapter")
        grader = scratch.model(tok, shape.width, shape.layers, 64, SEED + 1)
        grader.save_pretrained(made / "judge")
        tok.save_pretrained(made / "judge")
