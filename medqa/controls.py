"""The control arms of DPO: the same training on pairs that say nothing (placebo) or say more (oracle)."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from medqa import metrics, pairs, sampling
from medqa.records import Judged, Pair
from medqa.runtime.sections import PairsParams


def placebo_pairs(judge_pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The judge's pairs in their order, with half of them (rounded down) turned round.

    A hash of seed and id draws which: what DPO gains beyond this arm comes from which answer is chosen.
    """
    order = sorted(judge_pairs, key=lambda pair: sampling.draw_order(seed, pair.id))
    drawn = {pair.id for pair in order[: len(order) // 2]}
    return [_turned_round(pair) if pair.id in drawn else pair for pair in judge_pairs]


def _turned_round(pair: Pair) -> Pair:
    """Each score stays with its text."""
    return Pair(pair.id, pair.question, pair.rejected, pair.chosen, pair.rejected_score, pair.chosen_score)


def oracle_pairs(judged: Iterable[Judged], params: PairsParams, limit: int) -> list[Pair]:
    """At most `limit` pairs, by id, of candidates that the token F1 against the reference ranks.

    The candidates come sorted by id, and are paired as the judge's are, but for the floor of the margin,
    which is one of the judge's scores: the largest margins come first instead.
    """
    ranked = (replace(row, score=round(metrics.token_f1(row.text, row.reference), 6)) for row in judged)
    all_pairs = pairs.stream(ranked, params.model_copy(update={"min_margin": 0.0}), pairs.Tally())
    clearest = heapq.nsmallest(
        limit, all_pairs, key=lambda pair: (pair.rejected_score - pair.chosen_score, pair.id)
    )
    return sorted(clearest, key=attrgetter("id"))
