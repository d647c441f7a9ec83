"""Stage `agreement`: how often the judge prefers what people preferred."""

from pathlib import Path

from medqa import agreement, engines, judge, params, records, stage


def main(model: Path, labelled: Path, metrics: Path) -> str:
    """Measure the judge against the labelled pairs."""
    given = params.read()
    rows = records.read_some(labelled, records.Labelled)
    with stage.bar("judge", 6 * len(rows)) as bar:
        engine = engines.load(
            model, None, given["dtype"], given["compute"].judge_batch_size, bar.update, given["compute"].store
        )
        result = agreement.measure(
            lambda cases: judge.score(engine, cases, given["judge"]), rows, given["agreement"], given["seed"]
        )
    records.write_metrics(metrics, result)
    overall = result["all"]
    return f"{result['pairs']} pairs, agreement {overall['agreement']:.3f} (longer wins {overall['longer_wins']:.3f})"


if __name__ == "__main__":
    stage.run(main)
