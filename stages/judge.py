"""Stage `judge`: a score from 0 to 1 for every candidate."""

from pathlib import Path
from typing import Any

from medqa import engines, jsonl, judge, prompts, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(model: Path, candidates: Path, out: Path, metrics: Path, histogram: Path) -> str:
    """Judge the candidates against their references."""
    params = read_params()
    compute = params.compute
    rows = jsonl.read_all(candidates, records.Candidate)
    with stage.bar("judge", len(rows) * len(prompts.CRITERIA)) as bar:
        engine = engines.load(model, None, params.dtype, compute, compute.judge_batch_size, bar.update)
        judged = judge.rank_answers(engine, rows, params.judge)
    jsonl.write(out, judged)
    result = compute_metrics(params, out)
    jsonl.write_metrics(metrics, result)
    with jsonl.atomic_write(histogram) as file:
        file.write(
            "score\tcandidates\n" + "".join(f"{bin}\t{count}\n" for bin, count in judge.histogram(judged))
        )
    told = f"mean score {result['mean_score']:.3f}" if "mean_score" in result else "no score"
    return f"{result['judged']} candidates, {told}, {result['judged_unscored']} unscored"


def compute_metrics(params: Params, out: Path) -> dict[str, Any]:
    """The metrics, from the judged candidates."""
    return judge.summary(list(jsonl.read(out, records.Judged)))


if __name__ == "__main__":
    stage.run(main)
