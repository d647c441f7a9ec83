"""The rows that a reader of the report can browse, and the counts for its histograms."""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from medqa import jsonl, pairs
from medqa.records import Answer, HeldOut, Judged, Pair, Question, RowAudit
from medqa.report import tables
from medqa.report.labels import MODELS
from medqa.runtime.sections import PairsParams
from medqa.text import words

CRITERIA = ("accuracy", "completeness", "key_points")
# What is shown of a candidate and of a held-out answer, each from 0 to 1.
QUESTION_SCORES = ("score", *CRITERIA)
ANSWER_SCORES = (*QUESTION_SCORES, "key_point_recall", "token_f1", "rouge_l", "coverage")
BINS = 20  # of the scores from 0 to 1


@dataclass
class Tab:
    """A tab of rows as plain dictionaries, and the counts over all rows."""

    total: int  # all rows; `rows` may hold fewer
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: Counter[int] = field(default_factory=Counter)  # by bin
    unscored: int = 0
    # Lengths in words, by chosen, rejected or model.
    words: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))


def question_tab(data: Path, params: PairsParams, limit: int) -> Tab:
    """At most `limit` preference questions with their candidates and outcome; counts over all questions."""
    selected, total = select((row.id for row in jsonl.read(data / "questions.jsonl", Question)), limit)
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


def held_out_tab(data: Path, tie: float, limit: int) -> Tab:
    """At most `limit` held-out questions with the answers of all models; counts over all questions."""
    selected, total = select((row.id for row in jsonl.read(data / "heldout.jsonl", HeldOut)), limit)
    tab = Tab(total)
    answers: dict[str, dict[str, Answer]] = defaultdict(dict)
    for model in MODELS:
        for row in jsonl.read(data / "answers" / f"{model}.jsonl", Answer):
            tab.words[model][len(words(row.text))] += 1
            if row.id in selected:
                answers[row.id][model] = row
    for row in jsonl.read(data / "heldout.jsonl", HeldOut):
        if row.id in selected:
            tab.rows.append(_held_out_row(row, answers[row.id], tie))
    return tab


def select(ids: Iterable[str], limit: int) -> tuple[set[str], int]:
    """At most `limit` of the ids, the same in whatever order they come, and the number of all ids."""
    ids = list(ids)
    return set(heapq.nsmallest(limit, ids, key=lambda row: hashlib.sha256(row.encode()).digest())), len(ids)


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
        "margin": round(max(sides) - min(sides), 6) if len(sides) > 1 else None,
        "flags": _question_flags(candidates, roles),
        "answers": [
            _answer(f"candidate {row.sample}", roles.get(row.id, ""), row, QUESTION_SCORES, _notes(row))
            for row in candidates
        ],
    }


def _answer(
    name: str, role: str, row: Judged | Answer, scores: Sequence[str], notes: list[str]
) -> dict[str, Any]:
    shown = {score: getattr(row, score) for score in scores}
    return {"name": name, "role": role, "text": row.text, "scores": shown, "notes": notes}


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


def _held_out_row(row: HeldOut, answers: dict[str, Answer], tie: float) -> dict[str, Any]:
    sft, dpo = answers.get("sft"), answers.get("dpo")
    gain = round(dpo.score - sft.score, 6) if sft and dpo and None not in (sft.score, dpo.score) else None
    return {
        "id": row.id,
        "kind": row.kind,
        "question": row.question,
        "reference": row.reference,
        "gold": row.gold,
        "chosen": row.chosen,
        "rejected": row.rejected,
        "groups": row.groups,
        "margin": gain,
        "flags": _held_out_flags(list(answers.values()), gain, tie),
        "answers": [
            _answer(series.name, "", answers[model], ANSWER_SCORES, _answer_notes(answers[model]))
            for model, series in MODELS.items()
            if model in answers
        ],
    }


def _held_out_flags(answers: Sequence[Answer], gain: float | None, tie: float) -> list[str]:
    # Multiple choice is measured by its letter; neither score nor recall means much there.
    scored = [row for row in answers if row.score is not None]
    open_answers = [row for row in scored if row.correct is None]
    flags = {
        "recall": any(
            (first.score - second.score) * (first.key_point_recall - second.key_point_recall) < 0
            for first, second in combinations(open_answers, 2)
        ),
        "dpo_worse": gain is not None and gain < -tie,
        "likelier": any(_finds_rejected_likelier(row) for row in answers),
        "unscored": len(scored) < len(answers),
        "cut_off": any(row.finish_reason == "length" for row in answers),
        "wrong_letter": any(row.correct is False for row in answers),
    }
    return [name for name, is_set in flags.items() if is_set]


def _notes(row: Judged | Answer) -> list[str]:
    """Remarks on a candidate or an answer."""
    notes = [f"{len(words(row.text)):,} words"]
    if row.unscored:
        notes.append(f"unscored: {row.unscored}")
    if row.truncated_chars:
        notes.append(f"the judge did not see {row.truncated_chars:,} characters")
    if row.finish_reason == "length":
        notes.append("cut off by the token limit")
    if row.thinking:
        notes.append(f"after {len(words(row.thinking)):,} words of thinking, which are set aside")
    return notes


def _answer_notes(row: Answer) -> list[str]:
    notes = _notes(row)
    if row.correct is not None:
        notes.append(f"read as {row.choice or 'no letter'}: {'right' if row.correct else 'wrong'}")
    if row.reference_tokens:
        nats = f"{row.reference_logprob / row.reference_tokens:.2f}".replace("-", "−")
        notes.append(f"log-likelihood of the reference {nats} nats per token")
    if _finds_rejected_likelier(row):
        notes.append("finds the answer labelled worse likelier")
    return notes


def _finds_rejected_likelier(row: Answer) -> bool:
    return row.chosen_logprob is not None and row.chosen_logprob < row.rejected_logprob
