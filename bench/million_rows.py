"""Stages on fake rows of any number: a fake engine writes and judges, the rest is the pipeline's own."""

import os
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from bench import data
from bench.checkout import ROOT
from bench.workloads import SEED, Shape, lexicon
from medqa import compare, encoder, engines, jsonl
from medqa.engines import Completion, Labels, Likelihood, Request, Sampling
from medqa.engines.cached import CachedEngine
from medqa.records import Answer, HeldOut, JudgedPair, Question, RowAudit
from medqa.runtime import row_cache
from medqa.runtime.errors import UserError
from medqa.runtime.sections import ComputeParams

SHAPE = Shape(16_000, 0, 0, question=(8, 20), answer=(20, 60), new_tokens=60)
CANDIDATES = 2  # per question, as `generate.n` of the preset
WIDTH = 384  # of an embedding, as all-MiniLM-L6-v2 has it
BASE = Path("models/base")  # in the folder of the run; the judge is beside it


class Writer:
    """Random texts of words whose frequency falls with their rank (Zipf's law), as in any language."""

    def __init__(self) -> None:
        self.words = lexicon(SHAPE.vocabulary, random.Random(SEED))
        self.weights = [*accumulate(1 / rank for rank in range(1, len(self.words) + 1))]

    def text(self, seed: str, length: tuple[int, int]) -> str:
        """The text of this seed, of so many words, with a full stop after each twelfth."""
        rng = random.Random(seed)
        words = rng.choices(self.words, cum_weights=self.weights, k=rng.randint(*length))
        sentences = (" ".join(words[start : start + 12]) for start in range(0, len(words), 12))
        return "".join(f"{sentence.capitalize()}. " for sentence in sentences).strip()


class FakeEngine:
    """An engine that costs nothing but the making of a text or number per request."""

    def __init__(self) -> None:
        self.writer = Writer()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[str, Completion]]:
        for row in requests:
            text = self.writer.text(f"{row.seed} {row.messages[-1]['content']}", SHAPE.answer)
            yield row.id, Completion(text, "stop", 2 * text.count(" "))

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels]]:
        for row in requests:
            share = crc32(row.messages[-1]["content"].encode()) % 1000 / 1000
            yield row.id, Labels((1 - share, *[0.0] * (len(labels) - 2), share), 0.9)

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Likelihood]]:
        for row in requests:
            yield row.id, Likelihood(-float(len(row.answer)), 1 + row.answer.count(" "))

    def close(self) -> None:
        """It holds nothing."""


def load(model_dir: Path, adapter: Path | None, dtype: str, compute: ComputeParams, _: int) -> CachedEngine:
    """The fake engine behind the real row cache, in place of `engines.load`."""
    key = model_dir.name
    return CachedEngine(FakeEngine, row_cache.open_cache(compute), (key, key), [dtype], 0)


def embed(_: Path, texts: Sequence[str]) -> np.ndarray:
    """A unit vector per text, in place of `encoder.embed`."""
    return np.full((len(texts), WIDTH), WIDTH**-0.5, dtype=np.float32)


def prepare(folder: Path, rows: int, steps: Collection[str]) -> None:
    """Write params.yaml, and the files that these steps read and none of them writes, of `rows` rows."""
    writer, made, questions = Writer(), folder / "data", rows // CANDIDATES
    sources = (folder / "raw").resolve()
    sources.mkdir(parents=True, exist_ok=True)
    data.write_sources(SHAPE, rows // 2 if "data" in steps else 0, sources)
    (sources / "params.yaml").replace(folder / "params.yaml")
    inputs: dict[str, dict[str, Iterable[Any]]] = {
        "generate": {"questions": _questions(writer, questions)},
        "evaluate": {"heldout": _held_out(writer, rows)},
        "compare": {"agreement": map(_judged_pair, range(100))},
        "report": {"audit": map(_audit, range(questions))},
    }
    for step in inputs.keys() & set(steps):
        for name, records in inputs[step].items():
            jsonl.write(made / f"{name}.jsonl", records, ordered=True)
    for name in ("models/base", "models/judge", "data/people"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("base", "judge"):
        (folder / "models" / name / "model.safetensors").write_bytes(b"weights")


def _questions(writer: Writer, count: int) -> Iterator[Question]:
    for number in range(count):
        text = writer.text(f"question {number}", SHAPE.question)
        yield Question(f"{number:07}", text, writer.text(f"reference {number}", SHAPE.answer))


def _held_out(writer: Writer, count: int) -> Iterator[HeldOut]:
    for number in range(count):
        question = writer.text(f"held out {number}", SHAPE.question)
        texts = {name: writer.text(f"{name} {number}", SHAPE.answer) for name in ("reference", "rejected")}
        labels = {"chosen": texts["reference"], "labelled_by": "code", "groups": (f"topic: {number % 10}",)}
        yield HeldOut(f"{number:07}", "open", question, key_points=(), gold="", **texts, **labels)


def _audit(number: int) -> RowAudit:
    location = f"questions:train:rows:{number:09}"
    return RowAudit(location, "questions", f"{number:07}", "open", "easy", "kept", "")


def _judged_pair(number: int) -> JudgedPair:
    likelihoods = {"chosen_logprob": -9.0, "rejected_logprob": -11.0}
    similarities = {"chosen_similarity": 0.7, "rejected_similarity": 0.4}
    scores = (0.9, 0.2, 0.9, 30 + number % 7, 25)
    settings = {"with_reference": True, "judge": "judge"} | likelihoods | similarities
    return JudgedPair(f"{number:03}", "easy", *scores, **settings)


def run_generate() -> None:
    from stages import generate

    paths = (Path("data") / f"{name}.jsonl" for name in ("questions", "candidates"))
    generate.main(BASE, BASE, *paths, Path("metrics/generate.json"))


def run_judge() -> None:
    from stages import judge

    paths = (Path("data") / f"{name}.jsonl" for name in ("candidates", "judged"))
    judge.main(BASE.parent / "judge", *paths, Path("metrics/judge.json"), Path("metrics/histogram.tsv"))


def run_pairs() -> None:
    from stages import pairs

    paths = (Path("data") / f"{name}.jsonl" for name in ("judged", "pairs"))
    pairs.main(*paths, Path("metrics/pairs.json"))


def run_evaluate() -> None:
    from stages import evaluate

    paths = Path("data/heldout.jsonl"), Path("data/answers/dpo.jsonl"), Path("metrics/evaluate.json")
    evaluate.main(BASE, BASE, *paths)


def run_compare() -> None:
    from stages import compare as stage

    paths = (Path("data") / name for name in ("answers", "agreement.jsonl", "people"))
    stage.main(*paths, Path("metrics/compare.json"))


def run_report() -> None:
    """The report takes the numbers of a finished run, and the rows of this one."""
    from stages import report

    if not (ROOT / "models" / "dpo").is_dir():
        raise UserError("the report takes the models and the metrics of a finished run; run dvc repro")
    for name in ("quarantine", "attacks", "sft", "labelled", "controls/placebo", "controls/oracle"):
        jsonl.write(Path("data") / f"{name}.jsonl", [])
    folders = Path("data"), ROOT / "metrics", ROOT / "models"
    report.main(ROOT / "dvc.yaml", *folders, Path("report.html"))


def write_other_answers() -> None:
    """Answers of the other models: the numbers of `dpo`, and texts of their own; controls are off."""
    writer, folder = Writer(), Path("data/answers")
    for name in compare.MODELS:
        rows = jsonl.read(folder / "dpo.jsonl", Answer) if name not in compare.CONTROLS else ()
        texts = (replace(row, text=writer.text(f"{name} {row.id}", SHAPE.answer)) for row in rows)
        if not (folder / f"{name}.jsonl").exists():
            jsonl.write(folder / f"{name}.jsonl", texts)


STEPS: dict[str, Callable[[], None]] = {  # in the order of the pipeline: each reads what those before wrote
    "data": lambda: data.run_data(Path(".")),
    "generate": run_generate,
    "generate, full cache": run_generate,
    "judge": run_judge,
    "pairs": run_pairs,
    "evaluate": run_evaluate,
    "compare": run_compare,
    "report": run_report,
}


def run(step: str) -> None:
    """Run a step in the current folder, with the fake engine and the fake encoder."""
    os.environ["MEDQA_CACHE"] = str(Path("cache").resolve())
    engines.load, encoder.embed = load, embed  # type: ignore[assignment]
    STEPS[step]()
