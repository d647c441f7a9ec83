"""How the judge orders a question's candidates, beside measures of the reference that need no judge."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np

from medqa import metrics
from medqa.records import Judged
from medqa.text import words

MEASURES = {"token_f1": metrics.token_f1, "rouge_l": metrics.rouge_l}
BOOTSTRAP_SAMPLES = 2000


class BestAgainstWorst:
    """A few numbers per question about the candidates that a measure finds best and worst."""

    def __init__(self) -> None:
        self.margins = array("d")  # between the two, in the measure
        self.agreement, self.longer_wins = array("d"), array("d")  # 1 where the best wins, 0.5 for a tie

    def add(self, candidates: Sequence[Judged], values: Sequence[float]) -> None:
        """Add a question, unless its candidates all have the same value. Of equal ones the first counts."""
        best, worst = values.index(max(values)), values.index(min(values))
        if best == worst:
            return
        rows = candidates[best], candidates[worst]
        self.margins.append(values[best] - values[worst])
        self.agreement.append(metrics.win(*(row.score or 0.0 for row in rows)))
        self.longer_wins.append(metrics.win(*(len(words(row.text)) for row in rows)))

    def shares(self, questions: np.ndarray, seed: int) -> dict[str, float]:
        """The mean of each kind of wins over the questions of these numbers, with 95% intervals."""
        result: dict[str, float] = {"questions": len(questions)}
        for name in ("agreement", "longer_wins"):
            wins = np.asarray(getattr(self, name))[questions].tolist()
            result |= metrics.named(name, metrics.share_interval(wins, seed, BOOTSTRAP_SAMPLES))
        return result


def order_agreement(judged: Iterable[Judged], seed: int) -> dict[str, dict[str, float]]:
    """How often the judge scores the candidate that a measure finds best above the one that it finds worst.

    Candidates come sorted by id; one question is in memory at a time. Those count that have a score, a word
    and a reference, and questions with two of them that differ in the measure. A tie of scores counts half.
    `agreement` is the judge's share, `longer_wins` that of choosing the longer candidate. `token_f1_clear`
    and `rouge_l_clear` are the half of the questions with the largest margins. No metrics without questions.
    """
    by_measure = {name: BestAgainstWorst() for name in MEASURES}
    for _, group in groupby(judged, attrgetter("question_id")):
        rows = [row for row in group if row.score is not None and words(row.text) and words(row.reference)]
        for name, measure in MEASURES.items():
            if len(rows) > 1:
                by_measure[name].add(rows, [measure(row.text, row.reference) for row in rows])
    result = {}
    for name, each in by_measure.items():
        clearest_first = np.argsort(-np.asarray(each.margins), kind="stable")
        if len(clearest_first):
            result[name] = each.shares(clearest_first, seed)
            result[f"{name}_clear"] = each.shares(clearest_first[: (len(clearest_first) + 1) // 2], seed)
    return result
