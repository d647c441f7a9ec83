"""Preference pairs: of a question's candidates the best becomes chosen, the worst rejected, if that can be trusted."""

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
from pydantic import Field

from medqa.params import Float, Section
from medqa.records import Judged, Pair
from medqa.text import normal, words


class Params(Section):
    """Section `pairs` of params.yaml."""

    min_margin: Float = Field(ge=0, le=1)
    max_length_ratio: Float | None = Field(ge=1)


def build(judged: Iterable[Judged], params: Params) -> tuple[list[Pair], dict[str, Any]]:
    """Pairs and their metrics from the candidates of each question, in whatever order they come.

    A question gives a pair or is counted under the one reason why not: `unscored`, `too_few`, `empty`, `same_text`,
    `tie`, `cut_off` or `length`. The counts add up to the questions.
    """
    pairs, left_out, rows = [], Counter(), []
    ordered = sorted(judged, key=lambda row: (row.question_id, row.sample))
    for _, group in groupby(ordered, key=lambda row: row.question_id):
        candidates = list(group)
        rows += candidates
        pair, reason = _pair(candidates, params)
        if pair is None:
            left_out[reason] += 1
        else:
            pairs.append(pair)
    reasons = ("unscored", "too_few", "empty", "same_text", "tie", "cut_off", "length")
    metrics = {
        "questions": len(pairs) + left_out.total(),
        "pairs": len(pairs),
        **{f"left_out_{reason}": left_out[reason] for reason in reasons},
        "margin_mean": _mean([pair.chosen_score - pair.rejected_score for pair in pairs]),
        "chosen_longer": _mean([len(words(pair.chosen)) > len(words(pair.rejected)) for pair in pairs]),
        "score_length_correlation": _correlation([row for row in rows if row.score is not None]),
    }
    return pairs, metrics


def _pair(candidates: list[Judged], params: Params) -> tuple[Pair | None, str]:
    if len(candidates) < 2:
        return None, "too_few"
    if any(row.score is None for row in candidates):
        return None, "unscored"
    # Ties between equal scores are broken by the sample's number, so that the order of rows changes no pair.
    ranked = sorted(candidates, key=lambda row: (-row.score, row.sample))
    best, worst = ranked[0], ranked[-1]
    if not words(best.text) or not words(worst.text):
        return None, "empty"
    if normal(best.text) == normal(worst.text):
        return None, "same_text"
    # Scores have six decimals; the rest of a difference is binary noise.
    if round(best.score - worst.score, 6) <= params.min_margin:
        return None, "tie"
    if best.finish == "length":
        return None, "cut_off"
    if params.max_length_ratio is not None and _length_ratio(best, worst) > params.max_length_ratio:
        return None, "length"
    return Pair(best.question_id, best.question, best.text, worst.text, best.score, worst.score), ""


def _length_ratio(first: Judged, second: Judged) -> float:
    shorter, longer = sorted((len(words(first.text)), len(words(second.text))))
    return longer / shorter


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else 0.0


def _correlation(rows: list[Judged]) -> float:
    lengths, scores = [len(words(row.text)) for row in rows], [row.score for row in rows]
    if len(rows) < 2 or np.std(lengths) == 0 or np.std(scores) == 0:
        return 0.0
    return float(np.corrcoef(lengths, scores)[0, 1])
