"""Preference pairs: of a question's candidates the best becomes chosen, the worst rejected, if that can be
trusted.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
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
    """What is counted while pairs are built: a few numbers a row, whatever the length of its texts."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.unscored = self.empty = 0  # candidates that can be on no side of a pair
        self.margins, self.longer = array("d"), array("d")  # of each pair
        self.scores, self.lengths = array("d"), array("q")  # of each scored candidate, in words

    def metrics(self) -> dict[str, Any]:
        """Counts and means. Pairs and questions left out add up to the questions; of equal lengths half is
        longer.
        """
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
    """Pairs and their metrics from the candidates of each question, in whatever order they come."""
    tally = Tally()
    built = list(stream(sorted(judged, key=lambda row: row.id), params, tally))
    return sorted(built, key=lambda pair: pair.id), tally.metrics()


def stream(judged: Iterable[Judged], params: PairsParams, tally: Tally) -> Iterator[Pair]:
    """The pairs of candidates that come sorted by id, as files hold them, with one question in memory at a
    time.

    A question gives a pair or is counted in `tally` under the one reason why not: `too_few` candidates, fewer
    than two with a score (`unscored`), fewer than two of those with a word (`empty`), `same_text`, `tie`,
    `cut_off` or `length`.
    """
    for candidates in _questions(judged):
        told = {row.sample: words(row.text) for row in candidates}
        scored = [row for row in candidates if row.score is not None]
        tally.unscored += len(candidates) - len(scored)
        tally.empty += sum(not told[row.sample] for row in scored)
        tally.scores.extend(row.score for row in scored)
        tally.lengths.extend(len(told[row.sample]) for row in scored)
        best, worst, reason = _extremes(candidates, told, params)
        if reason:
            tally.left_out[reason] += 1
            continue
        tally.margins.append(best.score - worst.score)
        longer = len(told[best.sample]) - len(told[worst.sample])
        tally.longer.append(0.5 if longer == 0 else longer > 0)
        yield Pair(best.question_id, best.question, best.text, worst.text, best.score, worst.score)


def _questions(judged: Iterable[Judged]) -> Iterator[list[Judged]]:
    """The candidates of each question. In the order of their ids, only questions named `q#…` can stand
    between two candidates of the question `q`: these are set aside until they are whole.
    """
    begun: list[list[Judged]] = []
    for row in judged:
        while begun and not row.id.startswith(f"{begun[-1][0].question_id}#"):
            yield begun.pop()
        if begun and row.question_id == begun[-1][0].question_id:
            begun[-1].append(row)
        else:
            begun.append([row])
    yield from reversed(begun)


def _extremes(
    candidates: list[Judged], told: dict[int, list[str]], params: PairsParams
) -> tuple[Judged, Judged, str]:
    """The best and the worst candidate, and why they are no pair (empty if they are one); `told` are their
    words.
    """
    if len(candidates) < 2:
        return candidates[0], candidates[0], "too_few"
    scored = [row for row in candidates if row.score is not None]
    if len(scored) < 2:
        return candidates[0], candidates[0], "unscored"
    answered = [row for row in scored if told[row.sample]]
    if len(answered) < 2:
        return candidates[0], candidates[0], "empty"
    # Ties between equal scores are broken by the sample's number, so that the order of rows changes no pair.
    ranked = sorted(answered, key=lambda row: (-row.score, row.sample))
    best, worst = ranked[0], ranked[-1]
    return best, worst, _reason(best, worst, told[best.sample], told[worst.sample], params)


def _reason(best: Judged, worst: Judged, chosen: list[str], rejected: list[str], params: PairsParams) -> str:
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
