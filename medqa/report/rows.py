"""What both tabs of rows on the page share: the tab, the draw of rows, and how an answer is shown."""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from medqa.records import Answer, Judged
from medqa.text import words

CRITERIA = ("accuracy", "completeness", "key_points")
# What is shown of a candidate and of a held-out answer, each from 0 to 1.
QUESTION_SCORES = ("score", *CRITERIA)
ANSWER_SCORES = (*QUESTION_SCORES, "key_point_recall", "token_f1", "rouge_l", "coverage")
DECIMALS = 4  # of a score on the page


@dataclass
class Tab:
    """A tab of rows as plain dictionaries, and the counts over all rows."""

    total: int  # all rows; `rows` may hold fewer
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: Counter[int] = field(default_factory=Counter)  # by bin
    unscored: int = 0
    # Lengths in words, by chosen, rejected or model.
    words: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))


def select(ids: Iterable[tuple[int, str]], limit: int) -> tuple[set[str], int]:
    """At most `limit` of the ids, the same in whatever order they come, and the number of all ids.

    Each has its rank: those of a lower rank come before all others, and among equals a hash decides.
    """
    counted = count()
    keys = (
        (rank, hashlib.sha256(id.encode()).digest(), id) for (rank, id), _ in zip(ids, counted, strict=False)
    )
    selected = {id for _, _, id in heapq.nsmallest(limit, keys)}
    return selected, next(counted)


def show_answer(
    name: str, role: str, row: Judged | Answer, scores: Sequence[str], notes: list[str]
) -> dict[str, Any]:
    """An answer as the page shows it; `scores` are names in `words` of the page, in this order."""
    values = [getattr(row, score) for score in scores]
    shown = [None if value is None else round(value, DECIMALS) for value in values]
    return {"name": name, "role": role, "text": row.text, "scores": shown, "notes": notes}


def notes(row: Judged | Answer) -> list[str]:
    """Remarks on a candidate or an answer."""
    remarks = [f"{len(words(row.text)):,} words"]
    if row.unscored:
        remarks.append(f"unscored: {row.unscored}")
    if row.truncated_chars:
        remarks.append(f"the judge did not see {row.truncated_chars:,} characters")
    if row.finish_reason == "length":
        remarks.append("cut off by the token limit")
    if row.thinking:
        remarks.append(f"after {len(words(row.thinking)):,} words of thinking, which are set aside")
    return remarks
