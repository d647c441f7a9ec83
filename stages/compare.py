"""Stage `compare`: paired differences between base, SFT, DPO and its controls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medqa import calibration, compare, jsonl, people_scores
from medqa.records import Answer, JudgedPair
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params
from medqa.spool import Spool


def main(answers: Path, agreed: Path, people: Path, metrics: Path) -> str:
    """Compare the evaluations, judged by a judge that the labelled pairs `agreed` measured.

    The sheets in the folder `people`, if there are any, calibrate them.
    """
    result = compute_metrics(read_params(), answers, agreed, people)
    jsonl.write_metrics(metrics, result)
    gains = (
        f"{name.replace('_', ' ')}: score {result[name].get('score_gain', 0):+.3f}"
        for name in compare.COMPARISONS
        if name in result
    )
    return f"verdict: {result['verdict']} ({result['reason']}); {'; '.join(gains)}"


def compute_metrics(params: Params, answers: Path, agreed: Path, people: Path) -> dict[str, Any]:
    """The metrics, from the answers of all models, the judged labelled pairs, and people's scores."""
    rows, pairs = read_answers(answers), list(jsonl.read(agreed, JudgedPair))
    calibrated = calibration.summary(rows, people_scores.read_all(people), compare.COMPARISONS)
    return compare.compare(rows, pairs, params.compare, params.seed, calibrated)


def read_answers(answers: Path) -> dict[str, Sequence[Answer]]:
    """The answers of each model, on the disk, without a control that is switched off, which has none."""
    files = {name: answers / f"{name}.jsonl" for name in compare.MODELS}
    rows = {name: Spool(jsonl.read(file, Answer, without=("thinking",))) for name, file in files.items()}
    return {name: each for name, each in rows.items() if each or name not in compare.CONTROLS}


if __name__ == "__main__":
    stage.run(main)
