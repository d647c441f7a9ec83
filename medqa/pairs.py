"""Preference pairs: of a question's candidates, the best is chosen and the worst rejected."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from medqa.records import Judged, Pair
from medqa.runtime.sections import PairsParams
from medqa.text import words

# Why a question gives no pair, and how the report says it.
REASONS = {
    "unscored": "fewer than two candidates with a score",
    "too_few": "fewer than two candidates",
    "empty": "fewer than two scored candidates with a word",
    "same_text": "candidates with the same text",
    "tie": "margin at or under the floor",
    "cut_off": "the better one cut off",
    "length": "lengths too far apart",
}


class Tally:
    """What is counted while pairs are built: a few numbers per row, whatever the length of its texts."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()  # questions by reason
        self.unscored = self.empty = 0  # candidates that can be on no side of a pair
        self.margins, self.longer = array("d"), array("d")  # of each pair
        self.scores, self.lengths = array("d"), array("q")  # of each scored candidate, in words

    def metrics(self) -> dict[str, Any]:
        """Counts and means. Questions are those with a pair and those left out; equal lengths count half."""
        return {
            "questions": len(self.margins) + self.left_out.total(),
            "pairs": len(self.margins),
            **{f"left_out_{reason}": self.left_out[reason] for reason in REASONS},
            "candidates_unscored": self.unscored,
            "candidates_empty": self.empty,
            "margin_mean": _mean(self.margins),
            "chosen_longer": _mean(self.longer),
            "score_length_correlation": _correlation(self.lengths, self.scores),
        }


def build(judged: Iterable[Judged], params: PairsParams) -> tuple[list[Pair], dict[str, Any]]:
    """Pairs sorted by id, and their metrics, from candidates in any order."""
    tally = Tally()
    pairs = list(stream(sorted(judged, key=attrgetter("id")), params, tally))
    return sorted(pairs, key=attrgetter("id")), tally.metrics()


def stream(judged: Iterable[Judged], params: PairsParams, tally: Tally) -> Iterator[Pair]:
    """The pairs of candidates sorted by id, with one question in memory at a time.

    A question gives a pair or is counted in `tally` under the one reason why not.
    """
    # A question's id holds no #, so that sorting by question_id#sample puts its candidates together.
    for _, group in groupby(judged, attrgetter("question_id")):
        candidates = [(row, words(row.text)) for row in group]
        scored = [(row, text) for row, text in candidates if row.score is not None]
        answered = [(row, text) for row, text in scored if text]
        tally.unscored += len(candidates) - len(scored)
        tally.empty += len(scored) - len(answered)
        tally.scores.extend(row.score for row, _ in scored)
        tally.lengths.extend(len(text) for _, text in scored)
        few = ((candidates, "too_few"), (scored, "unscored"), (answered, "empty"))
        if reason := next((reason for rows, reason in few if len(rows) < 2), ""):
            tally.left_out[reason] += 1
            continue
        # Equal scores are ordered by the sample's number, so that the order of rows changes no pair.
        answered.sort(key=lambda candidate: (-candidate[0].score, candidate[0].sample))
        (best, chosen), (worst, rejected) = answered[0], answered[-1]
        if reason := _reason(best, worst, chosen, rejected, params):
            tally.left_out[reason] += 1
            continue
        tally.margins.append(best.score - worst.score)
        tally.longer.append(0.5 if len(chosen) == len(rejected) else len(chosen) > len(rejected))
        yield Pair(best.question_id, best.question, best.text, worst.text, best.score, worst.score)


def _reason(
    best: Judged, worst: Judged, chosen: Sequence[str], rejected: Sequence[str], params: PairsParams
) -> str:
    """Why two candidates with these words are no pair; empty if they are one."""
    if chosen == rejected:
        return "same_text"
    # Scores have six decimals; the rest of a difference is binary noise.
    if round(best.score - worst.score, 6) <= params.min_margin:
        return "tie"
    if best.finish_reason == "length":
        return "cut_off"
    shorter, longer = sorted((len(chosen), len(rejected)))
    if params.max_length_ratio is not None and longer / shorter > params.max_length_ratio:
        return "length"
    return ""


def _mean(values: array) -> float:
    return float(np.mean(values)) if values else 0.0


def _correlation(lengths: array, scores: array) -> float:
    if len(scores) < 2 or np.std(lengths) == 0 or np.std(scores) == 0:
        return 0.0
    return float(np.corrcoef(lengths, scores)[0, 1])
