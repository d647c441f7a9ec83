"""Counts over the audit of the source rows, and over the rows that were kept."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from medqa.data.selection import OUTPUTS
from medqa.records import Example, HeldOut, Labelled, Question, RowAudit

LEFT_OUT = ("quarantined", "other_kind", "contaminated", "near_duplicate", "duplicate", "over_limit")


def count_outcomes(audit: Iterable[RowAudit]) -> dict[str, Any]:
    """How many rows were read, kept, and left out for each reason, per output.

    An output has these counts in all, by kind and by label type (`unknown` where the row could not be read).
    In every group, read is the sum of all the others. Where kept rows lost something, `remarks` counts what.
    """
    tally: Counter[tuple[str, ...]] = Counter()
    remarks: dict[str, Counter[str]] = {output: Counter() for output in OUTPUTS}
    for row in audit:
        for group, name in (("all", "all"), ("kinds", row.kind), ("label_types", row.label_type)):
            tally[row.output, group, name or "unknown", row.outcome] += 1
        if row.outcome == "kept" and row.reason:
            remarks[row.output].update(row.reason.replace(" ", "_").split(";_"))

    def counts(output: str, group: str, name: str) -> dict[str, int]:
        outcomes = {outcome: tally[output, group, name, outcome] for outcome in (*LEFT_OUT, "kept")}
        return {"read": sum(outcomes.values()), **outcomes}

    def groups(output: str, group: str) -> dict[str, dict[str, int]]:
        names = sorted({key[2] for key in tally if key[:2] == (output, group)})
        return {name: counts(output, group, name) for name in names}

    result: dict[str, Any] = {}
    for output in OUTPUTS:
        # The SFT set has no label types.
        label_types = groups(output, "label_types") if output != "sft" else {}
        result[output] = {
            "all": counts(output, "all", "all"),
            "kinds": groups(output, "kinds"),
            "label_types": label_types,
        }
        if remarks[output]:
            result[output]["remarks"] = dict(sorted(remarks[output].items()))
    return result


def count_labellers(labelled: Iterable[Labelled]) -> dict[str, int]:
    """How many labelled pairs code, people, each model, or someone unknown labelled; by name."""
    return dict(sorted(Counter(row.labelled_by for row in labelled).items()))


def mean_lengths(rows: Iterable[Example | Question | HeldOut | Labelled]) -> dict[str, float]:
    """Characters per question and per answer, which is the reference where rows have one."""
    count = question = answer = 0
    for row in rows:
        count += 1
        question += len(row.question)
        answer += len(row.answer if isinstance(row, Example) else row.reference)
    return {"question": question / max(1, count), "answer": answer / max(1, count)}
