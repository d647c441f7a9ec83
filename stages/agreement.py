"""Stage `agreement`: how far the judge can be trusted."""

import sys
from pathlib import Path
from typing import Any

from medqa import agreement, attacks, engines, hub, jsonl, judge, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params


def main(model: Path, base: Path, labelled: Path, agreed: Path, attacked: Path, metrics: Path) -> str:
    """Measure the judge against labelled pairs, simpler judges and attacks."""
    params = read_params()
    rows = jsonl.read_all(labelled, records.Labelled)
    compute = params.compute
    with stage.bar("likelihood", 2 * len(rows)) as bar:
        policy = engines.load(base, None, params.dtype, compute, compute.generate_batch_size, bar.update)
        pairs = min(params.agreement.attacked_pairs, len(rows))
        bar.total += 3 * (2 * len(rows) + pairs * (3 + len(attacks.evaluation_attacks())))
        grader = engines.load(model, None, params.dtype, compute, compute.judge_batch_size, bar.update)

        def score(cases: list[judge.Case]) -> list[records.Score]:
            policy.free()  # 8 GB do not hold both models
            return judge.score(grader, cases, params.judge)

        jsonl.write(agreed, agreement.agree(score, policy, rows, hub.describe(model)))
        jsonl.write(attacked, agreement.attack(score, rows, params.agreement, params.seed))
    result = compute_metrics(params, agreed, attacked)
    jsonl.write_metrics(metrics, result)
    if not agreement.beats_longer(result):
        print(WARNING, file=sys.stderr, flush=True)
    overall, tried = result["by"].get("all", {}), result["attacks"]
    return (
        f"{result['pairs']} pairs, agreement {overall.get('agreement', 0):.3f} "
        f"(longer wins {overall.get('longer_wins', 0):.3f}, likelier wins {overall.get('likelier_wins', 0):.3f}); "
        f"{tried['tried']} attacks, {tried['attack_rate']:.1%} succeed"
    )


def compute_metrics(params: Params, agreed: Path, attacked: Path) -> dict[str, Any]:
    """The metrics, from the rows."""
    return agreement.summary(
        jsonl.read_all(agreed, records.JudgedPair),
        jsonl.read_all(attacked, records.AttackResult),
        params.agreement,
        params.seed,
    )


WARNING = """
!!! THIS JUDGE IS NOT CLEARLY BETTER THAN CHOOSING THE LONGER ANSWER (over_longer in the metrics of agreement).
!!! Its scores, the pairs built from them and the verdict mean nothing. Use another judge, or another judge.template.
"""

if __name__ == "__main__":
    stage.run(main)
