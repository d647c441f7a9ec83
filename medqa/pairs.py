"""Preference pairs: which text of a question is chosen and which is rejected."""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from medqa import option_reading
from medqa.records import Judged, Pair
from medqa.runtime.sections import PairsParams
from medqa.text import words

# Why a question gives no pair, and how the report says it.
REASONS = {
    "unscored": "too few candidates with a score",
    "too_few": "too few candidates",
    "broken": "too few scored candidates without broken characters",
    "empty": "too few scored candidates with a word",
    "no_reference": "no sound reference to choose",
    "same_text": "both with the same text",
    "tie": "margin at or under the floor",
    "cut_off": "the better one cut off",
    "no_option": "the better one without the letter of an option",
    "length": "lengths too far apart",
}
# Bytes that were no text when they were decoded, halves of surrogate pairs, and control characters except
# tabs and line ends: a policy must not learn to write them.
_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
REFERENCE_SCORE = 1.0  # the judge gives a reference no score: it is what a perfect answer is compared with


@dataclass(frozen=True)
class Side:
    """A text that may be chosen or rejected."""

    text: str
    words: Sequence[str]
    score: float
    cut_off: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether it has characters that belong to no text."""
        return _BROKEN.search(self.text) is not None


class Tally:
    """What is counted while pairs are built: a few numbers per row, whatever the length of its texts."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()  # questions by reason
        self.unscored = self.broken = self.empty = 0  # candidates that can be on no side of a pair
        self.margins, self.longer = array("d"), array("d")  # of each pair
        self.scores, self.lengths = array("d"), array("q")  # of each scored candidate, in words

    def metrics(self) -> dict[str, Any]:
        """Counts and means. Questions are those with a pair and those left out; equal lengths count half."""
        return {
            "questions": len(self.margins) + self.left_out.total(),
            "pairs": len(self.margins),
            **{f"left_out_{reason}": self.left_out[reason] for reason in REASONS},
            "candidates_unscored": self.unscored,
            "candidates_broken": self.broken,
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
        pair = _pair(list(group), params, tally)
        if isinstance(pair, Pair):
            yield pair
        else:
            tally.left_out[pair] += 1


def _pair(candidates: Sequence[Judged], params: PairsParams, tally: Tally) -> Pair | str:
    """The pair of a question, or the reason why it has none."""
    sides = _sides(candidates, params, tally)
    if isinstance(sides, str):
        return sides
    chosen = sides[0]
    rejected = _two_deviations_below(sides) if params.policy == "best_two_sd" else sides[-1]
    question = candidates[0]
    if reason := _reason(question.question, chosen, rejected, params):
        return reason
    tally.margins.append(chosen.score - rejected.score)
    equal = len(chosen.words) == len(rejected.words)
    tally.longer.append(0.5 if equal else len(chosen.words) > len(rejected.words))
    return Pair(
        question.question_id, question.question, chosen.text, rejected.text, chosen.score, rejected.score
    )


def _sides(candidates: Sequence[Judged], params: PairsParams, tally: Tally) -> list[Side] | str:
    """The texts that can be on a side of a question's pair, the best first, or why there are too few."""
    # Equal scores are ordered by the sample's number, so that the order of rows changes no pair.
    scored = [
        Side(row.text, words(row.text), row.score, row.finish_reason == "length")
        for row in sorted(candidates, key=attrgetter("sample"))
        if row.score is not None
    ]
    sound = [side for side in scored if not side.is_broken]
    answered = [side for side in sound if side.words]
    tally.unscored += len(candidates) - len(scored)
    tally.broken += len(scored) - len(sound)
    tally.empty += len(sound) - len(answered)
    tally.scores.extend(side.score for side in scored)
    tally.lengths.extend(len(side.words) for side in scored)
    needed = 1 if params.policy == "reference" else 2
    few = ((candidates, "too_few"), (scored, "unscored"), (sound, "broken"), (answered, "empty"))
    if reason := next((reason for rows, reason in few if len(rows) < needed), ""):
        return reason
    answered.sort(key=lambda side: -side.score)
    if params.policy != "reference":
        return answered
    text = candidates[0].reference
    reference = Side(text, words(text), REFERENCE_SCORE)
    return [reference, *answered] if reference.words and not reference.is_broken else "no_reference"


def _two_deviations_below(sides: Sequence[Side]) -> Side:
    """The side whose score is nearest to two standard deviations below the mean (Xiao et al. 2025).

    It is worse than the best where any is. With up to ten sides it is always the worst: with the two lowest
    scores and the mean fixed, the deviation is least where all others are equal, and even there the target
    is past the middle of those two only from eleven sides on.
    """
    scores = [side.score for side in sides]
    target = float(np.mean(scores) - 2 * np.std(scores))
    worse = [side for side in sides if side.score < sides[0].score] or sides
    return min(reversed(worse), key=lambda side: abs(side.score - target))


def _reason(question: str, chosen: Side, rejected: Side, params: PairsParams) -> str:
    """Why two texts are no pair; empty if they are one."""
    if chosen.words == rejected.words:
        return "same_text"
    # Scores have six decimals; the rest of a difference is binary noise.
    if round(chosen.score - rejected.score, 6) <= params.min_margin:
        return "tie"
    if chosen.cut_off:
        return "cut_off"
    # A judge may like the words of an option without the letter, and DPO would unlearn the letter.
    letters = option_reading.listed_letters(question)
    if letters and not option_reading.read_option(chosen.text, letters):
        return "no_option"
    shorter, longer = sorted((len(chosen.words), len(rejected.words)))
    if params.max_length_ratio is not None and longer / shorter > params.max_length_ratio:
        return "length"
    return ""


def _mean(values: array) -> float:
    return float(np.mean(values)) if values else 0.0


def _correlation(lengths: array, scores: array) -> float:
    if len(scores) < 2 or np.std(lengths) == 0 or np.std(scores) == 0:
        return 0.0
    return float(np.corrcoef(lengths, scores)[0, 1])
