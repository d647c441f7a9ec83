"""The preference questions that a reader of the report can browse, and the counts for its histograms."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medqa import jsonl, pairs
from medqa.records import Judged, Pair, Question, RowAudit
from medqa.report import tables
from medqa.report.rows import CRITERIA, DECIMALS, QUESTION_SCORES, Tab, notes, select, show_answer
from medqa.runtime.sections import PairsParams
from medqa.text import words

BINS = 20  # of the scores from 0 to 1


def question_tab(data: Path, params: PairsParams, limit: int) -> Tab:
    """At most `limit` preference questions with their candidates and outcome; counts over all questions."""
    selected, total = select(((0, row.id) for row in jsonl.read(data / "questions.jsonl", Question)), limit)
    tab = Tab(total)
    candidates, selected_pairs = defaultdict(list), {}
    for row in jsonl.read(data / "judged.jsonl", Judged):
        if row.score is None:
            tab.unscored += 1
        else:
            tab.scores[min(int(row.score * BINS), BINS - 1)] += 1
        if row.question_id in selected:
            candidates[row.question_id].append(row)
    for pair in jsonl.read(data / "pairs.jsonl", Pair):
        tab.words["chosen"][len(words(pair.chosen))] += 1
        tab.words["rejected"][len(words(pair.rejected))] += 1
        if pair.id in selected:
            selected_pairs[pair.id] = pair
    kinds = _kinds(jsonl.read(data / "audit.jsonl", RowAudit), selected)
    for row in jsonl.read(data / "questions.jsonl", Question):
        if row.id in selected:
            group = sorted(candidates[row.id], key=lambda candidate: candidate.sample)
            tab.rows.append(
                _question_row(row, kinds.get(row.id, ""), group, selected_pairs.get(row.id), params)
            )
    return tab


def _kinds(audit: Iterable[RowAudit], selected: set[str]) -> dict[str, str]:
    """The kind of each selected question; questions.jsonl does not hold it."""
    questions = (row for row in audit if row.output == "questions" and row.outcome == "kept")
    return {row.row: row.kind for row in questions if row.row in selected}


def _question_row(
    row: Question, kind: str, candidates: Sequence[Judged], pair: Pair | None, params: PairsParams
) -> dict[str, Any]:
    roles = _roles(candidates, pair)
    scores = [candidate.score for candidate in candidates if candidate.score is not None]
    sides = [pair.chosen_score, pair.rejected_score] if pair else scores
    return {
        "id": row.id,
        "kind": kind,
        "question": row.question,
        "reference": row.reference,
        "reference_role": "chosen" if pair and "chosen" not in roles.values() else "",
        "outcome": "pair" if pair else _left_out_reason(candidates, params),
        "margin": round(max(sides) - min(sides), DECIMALS) if len(sides) > 1 else None,
        "flags": _question_flags(candidates, roles),
        "answers": [
            show_answer(f"candidate {row.sample}", roles.get(row.id, ""), row, QUESTION_SCORES, notes(row))
            for row in candidates
        ],
    }


def _left_out_reason(candidates: Sequence[Judged], params: PairsParams) -> str:
    """The reason for which the stage `pairs` counts a question that gave no pair."""
    _, counts = pairs.build(candidates, params)
    return next((reason for reason, count in tables.left_out(counts).items() if count), "unknown")


def _roles(candidates: Sequence[Judged], pair: Pair | None) -> dict[str, str]:
    """The chosen and the rejected candidate's role, by candidate id."""
    if pair is None:
        return {}
    ids = {(row.text, row.score): row.id for row in reversed(candidates)}
    sides = {
        "chosen": (pair.chosen, pair.chosen_score),
        "rejected": (pair.rejected, pair.rejected_score),
    }
    return {ids[side]: role for role, side in sides.items() if side in ids}


def _question_flags(candidates: Sequence[Judged], roles: dict[str, str]) -> list[str]:
    sides = {roles[row.id]: row for row in candidates if row.id in roles}
    flags = {
        "unscored": any(row.score is None for row in candidates),
        "shortened": any(row.truncated_chars for row in candidates),
    }
    if len(sides) == 2:
        chosen, rejected = sides["chosen"], sides["rejected"]
        extra_words = len(words(chosen.text)) - len(words(rejected.text))
        flags["criteria"] = any(getattr(rejected, name) > getattr(chosen, name) for name in CRITERIA)
        flags |= {"shorter": extra_words < 0, "longer": extra_words > 0}
    return [name for name, is_set in flags.items() if is_set]
