"""Stage `agreement`: how far the judge can be trusted."""

import sys
from pathlib import Path
from typing import Any

from medqa import agreement, attacks, engines, hub, judge, params, records, stage


def main(model: Path, base: Path, labelled: Path, agreed: Path, attacked: Path, metrics: Path) -> str:
    """Measure the judge against labelled pairs, simpler judges and attacks."""
    given = params.read()
    rows = records.read_some(labelled, records.Labelled)
    compute = given["compute"]
    with stage.bar("likelihood", 2 * len(rows)) as bar:
        policy = engines.load(base, None, given["dtype"], compute, compute.generate_batch_size, bar.update)
        pairs = min(given["agreement"].attacked_pairs, len(rows))
        bar.total += 3 * (2 * len(rows) + pairs * (3 + len(attacks.tried())))
        grader = engines.load(model, None, given["dtype"], compute, compute.judge_batch_size, bar.update)

        def score(cases: list[judge.Case]) -> list[records.Score]:
            policy.free()  # 8 GB do not hold both models
            return judge.score(grader, cases, given["judge"])

        records.write(agreed, agreement.agree(score, policy, rows, hub.described(model)))
        records.write(attacked, agreement.attack(score, rows, given["agreement"], given["seed"]))
    result = measured(given, agreed, attacked)
    records.write_metrics(metrics, result)
    if not agreement.beats_longer(result):
        print(WARNING, file=sys.stderr, flush=True)
    overall, tried = result["by"].get("all", {}), result["attacks"]
    return (
        f"{result['pairs']} pairs, agreement {overall.get('agreement', 0):.3f} "
        f"(longer wins {overall.get('longer_wins', 0):.3f}, likelier wins {overall.get('likelier_wins', 0):.3f}); "
        f"{tried['tried']} attacks, {tried['attack_rate']:.1%} succeed"
    )


def measured(given: dict[str, Any], agreed: Path, attacked: Path) -> dict[str, Any]:
    """The metrics, from the rows."""
    return agreement.summary(
        records.read_some(agreed, records.Agreed),
        records.read_some(attacked, records.Attacked),
        given["agreement"],
        given["seed"],
    )


WARNING = """
!!! THIS JUDGE IS NOT CLEARLY BETTER THAN CHOOSING THE LONGER ANSWER (over_longer in the metrics of agreement).
!!! Its scores, the pairs built from them and the verdict mean nothing. Use another judge, or another judge.template.
"""

if __name__ == "__main__":
    stage.run(main)
