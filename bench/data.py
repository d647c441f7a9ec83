"""The stages that read and write rows: as many as UltraMedical's preference set has, without torch, in flat
memory.
"""

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
from bench.workloads import ROOT, SEED, SHAPES, lexicon, written
from medqa import jsonl
from medqa.records import Judged

UNIT = "questions"
ROWS = {"embedded": 109_353, "random": 109_353, "tiny": 40}
WITHIN = {"pairs": 30.0}  # seconds for all rows
FLAT = 1.5  # times the memory for four times the rows
VOCABULARY = 55_000  # words in so many prompts: MedQuAD's texts, 2 million words, extrapolated by Heaps' law


def contenders(load: str) -> dict[str, Callable[[int], runs.Run]]:
    """By stage: what writes the input of so many questions and gives a run of the stage on it."""
    shape = SHAPES["tiny" if load == "tiny" else "random"]

    def prepared(stage: Callable[..., None], write: Callable[..., None]) -> Callable[[int], runs.Run]:
        def prepare(rows: int) -> runs.Run:
            made = tempfile.TemporaryDirectory()  # gone with the run
            folder = Path(made.name)
            write(shape, rows, folder)

            def run() -> float:
                with chdir(made.name), contextlib.redirect_stderr(io.StringIO()):
                    stage(folder)
                assert "torch" not in sys.modules, "this stage imports torch"
                return rows

            return run

        return prepare

    return {"pairs": prepared(pairs, write_judged), "data": prepared(data, write_preferences)}


def measure(loads: list[str], rounds: int, out: Path) -> dict[str, Any]:
    """Seconds and memory of each stage on all rows and on a quarter of them, in processes of their own."""
    load, result = "tiny" if "tiny" in loads else "random", {}
    for stage in ("pairs", "data"):
        rows = ROWS[load]
        whole = [
            runs.alone("data", load, stage, rows) for _ in range(min(rounds, 3) if stage == "pairs" else 1)
        ]
        quarter = runs.alone("data", load, stage, rows // 4)
        result[stage] = {
            "rows": rows,
            "seconds": runs.spread([told["seconds"] for told in whole]),
            "peak_mb": whole[0]["peak_mb"],
            "peak_mb_of_a_quarter": quarter["peak_mb"],
            "flat": whole[0]["peak_mb"] < FLAT * quarter["peak_mb"],
            "target_seconds": WITHIN.get(stage),
            "torch": False,  # a run ends with an error where it is imported
        }
    return result


def pairs(folder: Path) -> None:
    """The stage `pairs`."""
    from stages import pairs

    pairs.main(folder / "judged.jsonl", folder / "pairs.jsonl", folder / "metrics.json")


def data(folder: Path) -> None:
    """The stage `data`."""
    from stages import data

    names = ("sft", "questions", "held_out", "labelled", "quarantine", "audit", "provenance")
    data.main(*(folder / "out" / f"{name}.jsonl" for name in names), folder / "metrics.json")


def write_judged(shape: Any, rows: int, folder: Path) -> None:
    """judged.jsonl with two candidates a question, and a params.yaml."""
    rng, candidates = random.Random(SEED), written(shape)[1]

    def judged() -> Iterator[Judged]:
        for place in range(2 * rows):
            row = asdict(candidates[place % len(candidates)])
            row |= {
                "id": f"{place // 2:06}#{place % 2}",
                "question_id": f"{place // 2:06}",
                "sample": place % 2,
            }
            score = round(rng.random(), 6)
            yield Judged(
                **row, **dict.fromkeys(("accuracy", "completeness", "key_points", "score"), score), **SOUND
            )

    write_params(folder)
    jsonl.write(folder / "judged.jsonl", judged(), ordered=True)


SOUND = {"mass": 0.9, "truncated_chars": 0, "unscored": ""}


def write_preferences(shape: Any, rows: int, folder: Path) -> None:
    """UltraMedical's files: so many preference pairs, a fortieth of them in dev and in test, and as many SFT
    rows.
    """
    rng, candidates = random.Random(SEED), written(shape)[1]
    words = lexicon(VOCABULARY, rng)

    def asked() -> str:
        # A word's frequency is the inverse of its rank (Zipf), so that two prompts share what two texts
        # share.
        return " ".join(
            words[int(len(words) ** rng.random()) - 1] for _ in range(rng.randint(*shape.question))
        )

    def preference(place: int) -> dict[str, Any]:
        question = asked()
        told = [candidates[(2 * place + side) % len(candidates)].text for side in (0, 1)]
        sides = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": text}] for text in told
        ]
        given = {"prompt_id": f"Open,{place}", "label_type": "easy", "prompt": question, "metadata": {}}
        return given | dict(zip(("chosen", "rejected"), sides, strict=True))

    def answered(place: int) -> dict[str, Any]:
        turns = [("human", asked()), ("gpt", "It is so.")]
        told = [{"from": who, "value": text} for who, text in turns]
        return {
            "id": f"Open,{place}",
            "type": "Open-End",
            "conversations": told,
            "answer": None,
            "score": None,
        }

    write_params(folder)
    small = max(2, rows // 40)
    made = {"preference_train.json": map(preference, range(rows))}
    made |= {f"preference_{split}.json": map(preference, range(small)) for split in ("dev", "test")}
    for name, some in (made | {"sft.jsonl": map(answered, range(rows))}).items():
        with open(folder / name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in some)


def write_params(folder: Path) -> None:
    """The parameters for a user's own files, in this folder, without limits."""
    given = yaml.safe_load((ROOT / "presets" / "files.yaml").read_text(encoding="utf-8"))
    given["corpus"] = str(folder)
    given["data"] |= dict.fromkeys(("max_sft", "max_questions", "max_held_out", "max_labelled"))
    (folder / "params.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    (folder / "sft.jsonl").touch()
    for split in ("train", "dev", "test"):
        (folder / f"preference_{split}.json").touch()
