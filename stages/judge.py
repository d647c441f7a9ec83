"""Stage `judge`: a score from 0 to 1 for every candidate."""

from pathlib import Path
from typing import Any

from medqa import engines, jsonl, judge, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(model: Path, candidates: Path, out: Path, metrics: Path, histogram: Path) -> str:
    """Judge the candidates against their references."""
    params = read_params()
    rows = jsonl.Rows(candidates, records.Candidate)
    batch_size = params.compute.judge_batch_size
    with engines.load(model, None, params.dtype, params.compute, batch_size) as grader:
        judged = judge.rank_answers(grader, rows, params.judge)
    jsonl.write(out, judged)
    result = compute_metrics(params, out)
    jsonl.write_metrics(metrics, result)
    with jsonl.atomic_write(histogram) as file:
        file.write("score\tcandidates\n")
        file.writelines(f"{tenth}\t{count}\n" for tenth, count in judge.histogram(judged))
    mean = f"mean score {result['mean_score']:.3f}" if "mean_score" in result else "no score"
    return f"{result['judged']} candidates, {mean}, {result['judged_unscored']} unscored"


def compute_metrics(params: Params, out: Path) -> dict[str, Any]:
    """The metrics, from the judged candidates."""
    order = judge.order_agreement(jsonl.read(out, records.Judged), params.seed)
    return judge.summary(jsonl.read(out, records.Judged)) | {"order": order}


if __name__ == "__main__":
    stage.run(main)
