"""The rows that the report lets a person browse, and what is counted on the way: files are read once, row by
row.
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from medqa import jsonl, pairs
from medqa.records import Answer, HeldOut, Judged, Pair, Question, RowAudit
from medqa.runtime import sections
from medqa.text import words

MODELS = {"base": "base", "sft": "SFT", "dpo": "DPO"}
CRITERIA = ("accuracy", "completeness", "key_points")
SHOWN = (
    "score",
    *CRITERIA,
    "key_point_recall",
    "token_f1",
    "rouge_l",
)  # of a held-out answer, each from 0 to 1


@dataclass
class Browsed:
    """A tab of rows as plain dictionaries, and the counts that histograms are drawn from."""

    total: int  # rows that there are; `rows` may hold fewer
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: Counter[int] = field(default_factory=Counter)  # by twentieth of the score
    unscored: int = 0
    words: dict[str, Counter[int]] = field(
        default_factory=lambda: defaultdict(Counter)
    )  # lengths by chosen, base, ...


def preference_questions(data: Path, params: sections.PairsParams, limit: int) -> Browsed:
    """At most `limit` questions with all candidates, what became of them and why; counts over all of them."""
    picked, total = pick((row.id for row in jsonl.read(data / "questions.jsonl", Question)), limit)
    told = Browsed(total)
    groups, paired = defaultdict(list), {}
    for row in jsonl.read(data / "judged.jsonl", Judged):
        if row.score is None:
            told.unscored += 1
        else:
            told.scores[min(int(row.score * 20), 19)] += 1
        if row.question_id in picked:
            groups[row.question_id].append(row)
    for pair in jsonl.read(data / "pairs.jsonl", Pair):
        told.words["chosen"][len(words(pair.chosen))] += 1
        told.words["rejected"][len(words(pair.rejected))] += 1
        if pair.id in picked:
            paired[pair.id] = pair
    kinds = _kinds(jsonl.read(data / "audit.jsonl", RowAudit), picked)
    for row in jsonl.read(data / "questions.jsonl", Question):
        if row.id in picked:
            candidates = sorted(groups[row.id], key=lambda candidate: candidate.sample)
            told.rows.append(_question(row, kinds.get(row.id, ""), candidates, paired.get(row.id), params))
    return told


def held_out_questions(data: Path, tie: float, limit: int) -> Browsed:
    """At most `limit` held-out questions with the answers of all models; counts over all of them."""
    picked, total = pick((row.id for row in jsonl.read(data / "heldout.jsonl", HeldOut)), limit)
    told = Browsed(total)
    answers: dict[str, dict[str, Answer]] = defaultdict(dict)
    for name in MODELS:
        for row in jsonl.read(data / "answers" / f"{name}.jsonl", Answer):
            told.words[name][len(words(row.text))] += 1
            if row.id in picked:
                answers[row.id][name] = row
    for row in jsonl.read(data / "heldout.jsonl", HeldOut):
        if row.id in picked:
            told.rows.append(_held_out(row, answers[row.id], tie))
    return told


def pick(ids: Iterable[str], limit: int) -> tuple[set[str], int]:
    """At most `limit` of the ids, the same whatever their order, and how many ids there are."""
    total = 0

    def counted() -> Iterator[str]:
        nonlocal total
        for total, name in enumerate(ids, 1):  # noqa: B007 - the count outlives the loop
            yield name

    return set(
        heapq.nsmallest(limit, counted(), key=lambda name: hashlib.sha256(name.encode()).digest())
    ), total


def _kinds(audit: Iterable[RowAudit], picked: set[str]) -> dict[str, str]:
    """The kind of each picked question; the questions' own file does not hold it."""
    kept = (row for row in audit if row.output == "questions" and row.outcome == "kept")
    return {row.row: row.kind for row in kept if row.row in picked}


def _question(
    row: Question, kind: str, candidates: Sequence[Judged], pair: Pair | None, params: sections.PairsParams
) -> dict[str, Any]:
    roles = _roles(candidates, pair)
    scores = [candidate.score for candidate in candidates if candidate.score is not None]
    return {
        "id": row.id,
        "kind": kind,
        "question": row.question,
        "reference": row.reference,
        "outcome": "pair" if pair else _why_not(candidates, params),
        "margin": round(max(scores) - min(scores), 6) if len(scores) > 1 else None,
        "flags": _question_flags(candidates, roles),
        "answers": [
            {
                "name": f"candidate {candidate.sample}",
                "role": roles.get(candidate.id, ""),
                "text": candidate.text,
                "scores": {name: getattr(candidate, name) for name in ("score", *CRITERIA)},
                "notes": _notes(candidate),
            }
            for candidate in candidates
        ],
    }


def _why_not(candidates: Sequence[Judged], params: sections.PairsParams) -> str:
    """The reason that the stage `pairs` counts for a question that gave no pair."""
    _, counts = pairs.build(candidates, params)
    reasons = [
        key.removeprefix("left_out_")
        for key, value in counts.items()
        if key.startswith("left_out_") and value
    ]
    return reasons[0] if reasons else "unknown"


def _roles(candidates: Sequence[Judged], pair: Pair | None) -> dict[str, str]:
    """Which candidate, by id, stands on which side of the pair."""
    if pair is None:
        return {}
    chosen, rejected = (pair.chosen, pair.chosen_score), (pair.rejected, pair.rejected_score)
    sides = {(row.text, row.score): row.id for row in reversed(candidates)}
    return {sides[side]: role for side, role in ((chosen, "chosen"), (rejected, "rejected")) if side in sides}


def _question_flags(candidates: Sequence[Judged], roles: dict[str, str]) -> list[str]:
    sides = {roles[row.id]: row for row in candidates if row.id in roles}
    flags = {"unscored": any(row.score is None for row in candidates)}
    flags["shortened"] = any(row.truncated_chars for row in candidates)
    if len(sides) == 2:
        better, worse = sides["chosen"], sides["rejected"]
        flags["criteria"] = any(getattr(worse, name) > getattr(better, name) for name in CRITERIA)
        longer = len(words(better.text)) - len(words(worse.text))
        flags |= {"shorter": longer < 0, "longer": longer > 0}
    return [name for name, holds in flags.items() if holds]


def _held_out(row: HeldOut, answers: dict[str, Answer], tie: float) -> dict[str, Any]:
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
        "margin": gain,
        "flags": _held_out_flags(list(answers.values()), gain, tie),
        "answers": [
            {
                "name": shown,
                "role": "",
                "text": answers[name].text,
                "scores": {key: getattr(answers[name], key) for key in SHOWN},
                "notes": _answer_notes(answers[name]),
            }
            for name, shown in MODELS.items()
            if name in answers
        ],
    }


def _held_out_flags(answers: Sequence[Answer], gain: float | None, tie: float) -> list[str]:
    scored = [row for row in answers if row.score is not None]
    flags = {
        # Multiple choice is measured by its letter; neither score nor recall means much there.
        "recall": any(
            (one.score - other.score) * (one.key_point_recall - other.key_point_recall) < 0
            for one, other in combinations(scored, 2)
            if one.correct is None
        ),
        "dpo_worse": gain is not None and gain < -tie,
        "likelier": any(_finds_rejected_likelier(row) for row in answers),
        "unscored": len(scored) < len(answers),
        "cut_off": any(row.finish_reason == "length" for row in answers),
        "wrong_letter": any(row.correct is False for row in answers),
    }
    return [name for name, holds in flags.items() if holds]


def _notes(row: Any) -> list[str]:
    """What else is to be said of a candidate or an answer."""
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
        notes.append("finds the rejected answer likelier")
    return notes


def _finds_rejected_likelier(row: Answer) -> bool:
    return row.chosen_logprob is not None and row.chosen_logprob < row.rejected_logprob
