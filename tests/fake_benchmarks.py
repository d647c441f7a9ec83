"""Invented benchmark questions in the formats of the Hub's files."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

ORGANS = ("liver", "heart", "kidney", "lung", "spleen", "skin", "eye", "ear")
SIGNS = (
    "pain {%}",
    "a 'dry' cough",
    "fever: 39.5",
    "rash, 3 cm",
    "{{ thirst }}",
    "ödem",
    "fatigue\nat night",
)
ANSWERS = ("aspirin", "rest", "biopsy", "a statin", "insulin", "oxygen", "surgery", "an antibiotic")
SUBJECTS = ("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics")
SUBJECTS += ("professional_medicine",)
TASKS = ("medqa_4options", "medmcqa", "pubmedqa", *(f"mmlu_{subject}" for subject in SUBJECTS))


def write_all(folder: Path, rows: int, names: Sequence[str] = TASKS) -> dict[str, dict[str, str]]:
    """Write a file per task, and return the sources for params.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for number, task in enumerate(names):
        rng = random.Random(number)
        family = task.partition("_")[0]
        made = [MAKERS[family](f"{task} {row}", rng) for row in range(rows)]
        path = folder / (f"{task}.json" if family == "medqa" else f"{task}.parquet")
        if family == "medqa":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in made))
        else:
            parquet.write_table(pyarrow.Table.from_pylist(made), path)
        sources[task] = {"source": "files", "path": str(path)}
    return sources


def _question(name: str, rng: random.Random) -> str:
    """A vignette that no other row has."""
    signs = " and ".join(rng.sample(SIGNS, 3))
    patient = f" Case {name}: a patient aged {rng.randint(20, 90)} has {signs}."
    return f"{patient} What helps the {rng.choice(ORGANS)}?"


def _medqa(name: str, rng: random.Random) -> dict[str, Any]:
    endings = {f"ending{number}": answer for number, answer in enumerate(rng.sample(ANSWERS, 4))}
    return {"id": name, "sent1": _question(name, rng), "sent2": "", **endings, "label": rng.randrange(4)}


def _medmcqa(name: str, rng: random.Random) -> dict[str, Any]:
    options = dict(zip(("opa", "opb", "opc", "opd"), rng.sample(ANSWERS, 4), strict=True))
    row = {"id": name, "question": _question(name, rng), **options, "cop": rng.randrange(4)}
    return {**row, "choice_type": "single", "exp": None, "subject_name": "Medicine", "topic_name": None}


def _pubmedqa(name: str, rng: random.Random) -> dict[str, Any]:
    context = {
        "contexts": [_question(name, rng), "We asked 40 patients."],
        "labels": ["BACKGROUND", "METHODS"],
    }
    decision = rng.choice(("yes", "no", "maybe"))
    question = f"Does {rng.choice(ANSWERS)} help in {name}?"
    return {
        "pubid": 1,
        "question": question,
        "context": context,
        "long_answer": "",
        "final_decision": decision,
    }


def _mmlu(name: str, rng: random.Random) -> dict[str, Any]:
    question, choices = _question(name, rng), rng.sample(ANSWERS, 4)
    return {"question": question, "subject": "x", "choices": choices, "answer": rng.randrange(4)}


MAKERS = {"medqa": _medqa, "medmcqa": _medmcqa, "pubmedqa": _pubmedqa, "mmlu": _mmlu}
