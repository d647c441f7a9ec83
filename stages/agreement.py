"""Stage `agreement`: how far the judge can be trusted."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from medqa import agreement, encoder, engines, hub, jsonl, judge_trust, records
from medqa.runtime import stage
from medqa.runtime.params import read_params
from medqa.runtime.sections import Params

WARNING = """
!!! NOTHING SHOWS THAT THIS JUDGE IS WORTH OBEYING: {reason}.
!!! Its scores, the pairs built from them and the verdict mean nothing. Use another judge, or another judge.template.
"""  # noqa: E501


def main(base: Path, labelled: Path, agreed: Path, attacked: Path, metrics: Path) -> str:
    """Measure the judge that `evaluate.judge` names, in the folder of the base."""
    params = read_params()
    model = base.parent / params.evaluate.judge
    compute = params.compute
    rows = jsonl.read_all(labelled, records.Labelled)
    # One model after the other: 8 GB do not hold both.
    with engines.load(base, None, params.dtype, compute, compute.generate_batch_size) as policy:
        logprobs = agreement.answer_logprobs(policy, rows)
    similarities = agreement.measure_similarity(partial(encoder.embed, base.parent / params.encoder), rows)
    with engines.load(model, None, params.dtype, compute, compute.judge_batch_size) as grader:
        pairs = agreement.judge_pairs(grader, rows, logprobs, similarities, params.judge, hub.describe(model))
        attacks = agreement.attack_judge(grader, rows, pairs, params.agreement, params.judge, params.seed)
    jsonl.write(agreed, pairs)
    jsonl.write(attacked, attacks)
    result = compute_metrics(params, agreed, attacked)
    jsonl.write_metrics(metrics, result)
    if against := [sentence for _, holds, sentence in judge_trust.findings(result["trust"]) if not holds]:
        print(WARNING.format(reason=against[0]), file=sys.stderr, flush=True)
    overall, tried = result["by"].get("all", {}), result["attacks"]
    names = ("agreement", "longer_wins", "likelier_wins", "more_similar_wins")
    rates = {name: overall.get(name, 0) for name in names}
    text = ", ".join(f"{name.replace('_', ' ')} {rate:.3f}" for name, rate in rates.items())
    succeed = f"{tried['attack_rate']:.1%} succeed"
    pairs_text = f"{result['pairs']} pairs (labelled by: {result['labelled_by']})"
    return f"{pairs_text}, {text}; {tried['tried']} attacks, {succeed}"


def compute_metrics(params: Params, agreed: Path, attacked: Path) -> dict[str, Any]:
    """The metrics, from the rows."""
    return agreement.summary(
        jsonl.read_all(agreed, records.JudgedPair),
        jsonl.read_all(attacked, records.AttackResult),
        params.agreement,
        params.seed,
    )


if __name__ == "__main__":
    stage.run(main)
