"""Simulated runs: answers and labelled pairs of known quality, as a judge of one's choice sees them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medqa.records import Answer, JudgedPair
from medqa.runtime import presets
from medqa.runtime.sections import CompareParams

JUDGE = "judge (x)"
ATTRIBUTES = ("cause", "symptoms", "test", "treatment", "warning", "what is")
# Of the real preset, with fewer samples for speed.
PRESET = presets.read("qwen2.5-1.5b", Path(__file__).parent.parent / presets.FOLDER)
PARAMS = CompareParams(**PRESET["compare"] | {"bootstrap_samples": 200})


@dataclass
class Texts:
    """Texts by their true quality (0 to 1), their words, and their likelihood under the base; arrays of n."""

    quality: np.ndarray
    words: np.ndarray
    nats: np.ndarray  # per token


Judge = Callable[[Texts, np.random.Generator], np.ndarray]


def honest(texts: Texts, rng: np.random.Generator) -> np.ndarray:
    """A good judge: the true quality with noise."""
    return texts.quality + rng.normal(0, 0.1, len(texts.quality))


@dataclass
class Trial:
    """A run: what its models answer, and what its judge says of labelled pairs."""

    models: dict[str, list[Answer]]
    pairs: list[JudgedPair] = field(default_factory=list)

    def change(self, model: str, edit: Callable[[int, Answer], Answer]) -> "Trial":
        """The same run with each open answer of a model edited; `edit` takes its number too."""
        rows = self.models[model]
        edited = [edit(n, row) if row.correct is None else row for n, row in enumerate(rows)]
        return replace(self, models=self.models | {model: edited})


def simulate(
    seed: int,
    gain: float = 0.0,
    judge: Judge = honest,
    growth: float = 1.0,
    questions: int = 120,
    pairs: int = 200,
    nats_gain: float = 0.0,
) -> Trial:
    """A run in which DPO gains `gain` in true quality over SFT, and its answers grow by the factor `growth`.

    Half of the answers of DPO, and of the placebo, are those of SFT. The words that DPO adds are true.
    """
    rng = np.random.default_rng(seed)
    quality = 0.2 + 0.3 * rng.random(questions)
    base = Texts(quality, rng.integers(20, 40, questions), rng.normal(-2, 0.3, questions))
    sft = replace(base, quality=np.clip(quality + rng.normal(0.15, 0.1, questions), 0, 1))
    texts = {"base": base, "sft": sft}
    for name, rise in (("dpo", gain), ("placebo", 0.0)):
        moved = rng.random(questions) < 0.5
        quality = sft.quality + moved * rng.normal(2 * rise, 0.15, questions)
        texts[name] = replace(sft, quality=np.clip(quality, 0, 1))
    longer = np.round(sft.words * growth).astype(int)
    texts["dpo"] = replace(texts["dpo"], words=longer, nats=sft.nats + nats_gain)
    margins = {"base": 0.0, "sft": 0.1, "placebo": 0.1, "dpo": 0.1 + gain}
    models = {name: _answers(each, judge, margins[name], rng) for name, each in texts.items()}
    return Trial(models, labelled_pairs(judge, pairs, rng))


def _answers(texts: Texts, judge: Judge, margin: float, rng: np.random.Generator) -> list[Answer]:
    scores = np.clip(judge(texts, rng), 0, 1).round(6).tolist()
    overlap = np.clip(0.2 + 0.4 * texts.quality + rng.normal(0, 0.02, len(scores)), 0, 1).tolist()
    margins = rng.normal(margin, 0.1, len(scores)).tolist()
    rows = [_answer(n, score, overlap[n], margins[n]) for n, score in enumerate(scores)]
    rows = [
        replace(row, text=_text(rng, count), tokens=int(count), key_point_recall=float(quality))
        for row, count, quality in zip(rows, texts.words, texts.quality, strict=True)
    ]
    exams = [replace(rows[0], id=f"x{n:03}", kind="exam", choice="B", correct=True) for n in range(20)]
    return rows + exams


def _text(rng: np.random.Generator, count: int) -> str:
    return " ".join(f"w{word}" for word in rng.integers(0, 500, count).tolist())


def _answer(number: int, score: float, overlap: float, margin: float) -> Answer:
    return Answer(
        id=f"q{number:03}",
        kind="open",
        text="",
        finish_reason="stop",
        tokens=0,
        key_point_recall=0.0,
        token_f1=overlap,
        rouge_l=0.9 * overlap,
        coverage=overlap,
        repetition=0.0,
        choice="",
        correct=None,
        chosen_logprob=-20.0,
        rejected_logprob=-20.0 - 10 * margin,
        accuracy=score,
        completeness=score,
        key_points=score,
        score=score,
        mass=0.99,
        truncated_chars=0,
        unscored="",
        chosen_tokens=10,
        reference_logprob=-20.0,
        reference_tokens=10,
        judge=JUDGE,
        rejected_tokens=10,
        groups=(f"attribute: {ATTRIBUTES[number % len(ATTRIBUTES)]}",),
    )


def labelled_pairs(judge: Judge, size: int, rng: np.random.Generator) -> list[JudgedPair]:
    """Labelled pairs whose lengths and likelihoods say nothing of their quality."""
    better = rng.uniform(0.5, 1, size)
    qualities = (better, better - rng.uniform(0.05, 0.5, size))
    sides = [Texts(each, rng.integers(15, 50, size), rng.normal(-2, 0.3, size)) for each in qualities]
    scores = [np.clip(judge(side, rng), 0, 1).round(6).tolist() for side in sides]
    chosen, rejected = sides
    return [
        JudgedPair(
            id=f"l{n:03}",
            label_type="hard",
            chosen_score=scores[0][n],
            rejected_score=scores[1][n],
            mass=0.99,
            chosen_words=int(chosen.words[n]),
            rejected_words=int(rejected.words[n]),
            chosen_logprob=float(chosen.nats[n]),
            rejected_logprob=float(rejected.nats[n]),
            chosen_similarity=0.5,
            rejected_similarity=0.5,
            with_reference=True,
            judge=JUDGE,
        )
        for n in range(size)
    ]
