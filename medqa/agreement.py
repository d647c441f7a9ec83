"""How often the judge prefers the answer that people preferred."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from medqa import metrics
from medqa.params import Int, Section
from medqa.records import Labelled, Score
from medqa.text import words


class Params(Section):
    """Section `agreement` of params.yaml."""

    bootstrap_samples: Int = Field(ge=100)


def measure(
    score: Callable[[list[tuple[str, str, str]]], list[Score]], labelled: Sequence[Labelled], params: Params, seed: int
) -> dict[str, Any]:
    """Agreement with the labels, in all and by label type, with 95% bootstrap intervals. A tie counts as half.

    `longer_wins` is what choosing the longer answer would reach. Pairs with an unscored side are counted apart. The
    reference is never the chosen answer itself, else the judge would only have to compare texts.
    """
    sides = [
        score([(row.question, row.reference, getattr(row, side)) for row in labelled])
        for side in ("chosen", "rejected")
    ]
    rows = list(zip(labelled, *sides, strict=True))
    scored = [row for row in rows if row[1].score is not None and row[2].score is not None]
    result: dict[str, Any] = {"pairs": len(rows), "unscored": len(rows) - len(scored)}
    result["without_reference"] = sum(not row.reference for row in labelled)
    result["ties"] = sum(chosen.score == rejected.score for _, chosen, rejected in scored)
    kinds = {"all": scored}
    for label_type in sorted({row.label_type for row in labelled}):
        kinds[label_type] = [row for row in scored if row[0].label_type == label_type]
    for name, some in kinds.items():
        if some:
            wins = [_win(chosen.score, rejected.score) for _, chosen, rejected in some]
            mean, low, high = metrics.mean_interval(wins, seed, params.bootstrap_samples)
            longer = [_win(len(words(row.chosen)), len(words(row.rejected))) for row, _, _ in some]
            result[name] = {
                "rows": len(some),
                "agreement": mean,
                "agreement_low": low,
                "agreement_high": high,
                "longer_wins": sum(longer) / len(longer),
            }
    return result


def _win(chosen: float, rejected: float) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)
