"""An exported model beside the run's own: both answer held-out questions, and the judge scores both."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from medqa import compare, evaluate, jsonl, metrics
from medqa.engines import loading
from medqa.engines.transformers_engine import TransformersEngine
from medqa.evaluate import Response
from medqa.records import Answer, HeldOut
from medqa.runtime.errors import UserError
from medqa.runtime.sections import Params
from medqa.sampling import draw_order

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURES = {
    "token_f1": "token F1",
    "score": "judge's score",
    "reference_logprob": "log-likelihood of references, nats per token",
}

Responses = Sequence[Response]  # in the order of the questions


@dataclass(frozen=True)
class Comparison:
    """A measure of both models over the same open questions, and its paired difference with 95% interval."""

    measure: str
    rows: int
    original: float
    exported: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """How an export compares with the run's own model."""

    rows: int
    equal: int  # greedy answers that are the same text
    comparisons: list[Comparison]

    def table(self, policy: str, format: str) -> str:
        """The scores as a table in Markdown."""
        lines = [
            ("measure", "questions", policy, format, "difference (95% interval)"),
            ("---", "---:", "---:", "---:", "---:"),
            ("same greedy answer", str(self.rows), "", f"{self.equal} of {self.rows}", ""),
        ]
        for each in self.comparisons:
            values = f"{each.original:.3f}", f"{each.exported:.3f}"
            gain = f"{each.gain:+.3f} ({each.low:+.3f} to {each.high:+.3f})"
            lines.append((each.measure, str(each.rows), *values, gain))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in lines]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def draw(data: Path, count: int, seed: int) -> list[HeldOut]:
    """A random sample of the held-out questions, all of them where there are not so many."""
    path = data / "heldout.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is not there; make it with dvc repro")
    rows = jsonl.read_all(path, HeldOut)
    return sorted(rows, key=lambda row: draw_order(seed, f"export {row.id}"))[:count]


def answer_original(base: Path, adapter: Path | None, rows: Sequence[HeldOut], params: Params) -> Responses:
    """The answers of the run's own model, as `evaluate` has them; known ones come from the row cache."""
    compute = params.compute
    with loading.load(base, adapter, params.dtype, compute, compute.generate_batch_size) as engine:
        return evaluate.answer_questions(engine, rows, params.evaluate)


def answer_exported(
    model: "PreTrainedModel", tok: "PreTrainedTokenizerBase", rows: Sequence[HeldOut], params: Params
) -> Responses:
    """The answers of an exported model."""
    with closing(TransformersEngine(model, tok, params.compute.generate_batch_size)) as engine:
        return evaluate.answer_questions(engine, rows, params.evaluate)


def score(
    original: Responses, exported: Responses, rows: Sequence[HeldOut], judge: Path, params: Params
) -> Scores:
    """Both models' answers to the same questions, judged and compared."""
    compute = params.compute
    no_coverages = [None] * len(rows)
    with loading.load(judge, None, params.dtype, compute, compute.judge_batch_size) as grader:
        before, after = (
            evaluate.judge_responses(grader, rows, responses, no_coverages, params.judge, judge.name)
            for responses in (original, exported)
        )
    equal = sum(first.text == second.text for first, second in zip(before, after, strict=True))
    return Scores(len(rows), equal, _comparisons(list(zip(after, before, strict=True)), params))


def _comparisons(pairs: list[tuple[Answer, Answer]], params: Params) -> list[Comparison]:
    result = []
    samples = params.compare.bootstrap_samples
    for name, label in MEASURES.items():
        value = compare.MEASURES[name]
        # Of multiple choice only the letter counts.
        sides = [(value(after), value(before)) for after, before in pairs if after.correct is None]
        values = [(after, before) for after, before in sides if after is not None and before is not None]
        if values:
            gains = [after - before for after, before in values]
            exported, original = (fmean(side) for side in zip(*values, strict=True))
            interval = metrics.mean_interval(gains, params.seed, samples)
            result.append(Comparison(label, len(values), original, exported, *interval))
    return result
