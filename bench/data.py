"""The stages that only read and write rows, on as many as UltraMedical has: no torch, flat memory."""

import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from bench import runs
from bench.checkout import ROOT
from bench.workloads import SEED, SHAPES, Shape, lexicon, random_rows
from medqa import jsonl
from medqa.records import Judged
from medqa.runtime import presets

UNIT = "questions"
ROWS = {"embedded": 109_353, "random": 109_353, "tiny": 40}
MAX_SECONDS = {"pairs": 30.0}  # for all rows
FLAT = 1.5  # memory may grow by less than this factor while the rows grow fourfold
VOCABULARY = 55_000  # words in so many prompts: MedQuAD's texts, 2 million words, extrapolated by Heaps' law


def contenders(name: str) -> dict[str, Callable[[int], runs.Run]]:
    """By stage: what writes an input of so many questions and prepares a run of the stage on it."""
    shape = SHAPES["tiny" if name == "tiny" else "random"]

    def prepared(
        stage: Callable[[Path], None], write: Callable[[Shape, int, Path], None]
    ) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            temporary = tempfile.TemporaryDirectory()  # removed with the run
            folder = Path(temporary.name)
            write(shape, rows, folder)

            def run() -> float:
                with chdir(temporary.name), contextlib.redirect_stderr(io.StringIO()):
                    stage(folder)
                assert "torch" not in sys.modules, "this stage imports torch"
                return rows

            return run

        return prepare

    return {"pairs": prepared(run_pairs, write_judged), "data": prepared(run_data, write_sources)}


def measure(loads: list[str], rounds: int, out: Path) -> dict[str, Any]:
    """Seconds and memory of each stage on all rows and on a quarter of them, in processes of their own."""
    name, result = "tiny" if "tiny" in loads else "random", {}
    rows = ROWS[name]
    for stage in ("pairs", "data"):
        repeats = min(rounds, 3) if stage == "pairs" else 1
        whole = [runs.alone("data", name, stage, rows) for _ in range(repeats)]
        peak, quarter = whole[0]["peak_mb"], runs.alone("data", name, stage, rows // 4)["peak_mb"]
        result[stage] = {
            "rows": rows,
            "seconds": runs.spread([run["seconds"] for run in whole]),
            "peak_mb": peak,
            "peak_mb_of_a_quarter": quarter,
            "flat": peak < FLAT * quarter,
            "target_seconds": MAX_SECONDS.get(stage),
            "torch": False,  # a run that imports it ends with an error
        }
    return result


def run_pairs(folder: Path) -> None:
    """Run the stage `pairs`."""
    from stages import pairs

    pairs.main(folder / "judged.jsonl", folder / "pairs.jsonl", folder / "metrics.json")


def run_data(folder: Path) -> None:
    """Run the stage `data`."""
    from stages import data

    names = ("sft", "questions", "held_out", "labelled", "quarantine", "audit", "provenance")
    data.main(*(folder / "out" / f"{name}.jsonl" for name in names), folder / "metrics.json")


def write_judged(shape: Shape, rows: int, folder: Path) -> None:
    """Write judged.jsonl with two candidates per question, and a params.yaml."""
    rng, candidates = random.Random(SEED), random_rows(shape)[1]
    others = {"mass": 0.9, "truncated_chars": 0, "unscored": ""}

    def judged() -> Iterator[Judged]:
        for number in range(2 * rows):
            question, sample = f"{number // 2:06}", number % 2
            row = asdict(candidates[number % len(candidates)])
            row |= {"id": f"{question}#{sample}", "question_id": question, "sample": sample}
            scores = dict.fromkeys(
                ("accuracy", "completeness", "key_points", "score"), round(rng.random(), 6)
            )
            yield Judged(**row, **scores, **others)

    write_params(folder)
    jsonl.write(folder / "judged.jsonl", judged(), ordered=True)


def write_sources(shape: Shape, rows: int, folder: Path) -> None:
    """Write UltraMedical's files: so many preference pairs and SFT rows, a fortieth in dev and in test."""
    rng, candidates = random.Random(SEED), random_rows(shape)[1]
    words = lexicon(VOCABULARY, rng)

    def question() -> str:
        # A word's frequency is the inverse of its rank (Zipf), so that prompts overlap as real ones do.
        ranks = (int(len(words) ** rng.random()) for _ in range(rng.randint(*shape.question)))
        return " ".join(words[rank - 1] for rank in ranks)

    def preference_row(number: int) -> dict[str, Any]:
        text = question()
        row = {"prompt_id": f"Open,{number}", "label_type": "easy", "prompt": text, "metadata": {}}
        for offset, side in enumerate(("chosen", "rejected")):
            answer = candidates[(2 * number + offset) % len(candidates)].text
            row[side] = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return row

    def sft_row(number: int) -> dict[str, Any]:
        turns = [{"from": "human", "value": question()}, {"from": "gpt", "value": "It is so."}]
        row = {"id": f"Open,{number}", "type": "Open-End", "conversations": turns}
        return row | {"answer": None, "score": None}

    write_params(folder)
    small = max(2, rows // 40)
    files = {"preference_train.json": map(preference_row, range(rows))}
    files |= {f"preference_{split}.json": map(preference_row, range(small)) for split in ("dev", "test")}
    files["sft.jsonl"] = map(sft_row, range(rows))
    for name, file_rows in files.items():
        with open(folder / name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in file_rows)


def write_params(folder: Path) -> None:
    """Write the parameters for a user's own files, in this folder, without limits."""
    params = presets.read("files", ROOT / presets.FOLDER)
    params["corpus"] = str(folder)
    params["data"] |= dict.fromkeys(("max_sft", "max_questions", "max_held_out", "max_labelled"))
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for name in ("sft.jsonl", *(f"preference_{split}.json" for split in ("train", "dev", "test"))):
        (folder / name).touch()
