"""Stage `judge`: a score from 0 to 1 for every candidate."""

from pathlib import Path
from typing import Any

from medqa import engines, judge, params, prompts, records, stage


def main(model: Path, candidates: Path, out: Path, metrics: Path, histogram: Path) -> str:
    """Judge the candidates against their references."""
    given = params.read()
    rows = records.read_some(candidates, records.Candidate)
    with stage.bar("judge", len(rows) * len(prompts.CRITERIA)) as bar:
        engine = engines.load(
            model, None, given["dtype"], given["compute"].judge_batch_size, bar.update, given["compute"].store
        )
        judged = judge.rank_answers(engine, rows, given["judge"])
    records.write(out, judged)
    result = measured(given, out)
    records.write_metrics(metrics, result)
    with records.whole(histogram) as file:
        file.write("score\tcandidates\n" + "".join(f"{bin}\t{count}\n" for bin, count in judge.histogram(judged)))
    told = f"mean score {result['mean_score']:.3f}" if "mean_score" in result else "no score"
    return f"{result['judged']} candidates, {told}, {result['judged_unscored']} unscored"


def measured(given: dict[str, Any], out: Path) -> dict[str, Any]:
    """The metrics, from the judged candidates."""
    return judge.summary(list(records.read(out, records.Judged)))


if __name__ == "__main__":
    stage.run(main)
