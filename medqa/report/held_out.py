"""The held-out questions on the page: gains of each comparison, the rows to browse, and sample answers."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from medqa import compare, jsonl
from medqa.columns import collect, present
from medqa.records import Answer, HeldOut
from medqa.report import page, rows
from medqa.report.labels import MODELS
from medqa.report.rows import ANSWER_SCORES, DECIMALS, Tab
from medqa.spool import Spool
from medqa.text import words

NamedRow = tuple[str, str, HeldOut | Answer]  # the id, the model or '' of a question, and the row


@dataclass(frozen=True)
class AnsweredQuestion:
    """A held-out question with the answer of each model, and the gain in score of each comparison."""

    row: HeldOut
    answers: Mapping[str, Answer]  # by model
    gains: Mapping[str, float]  # by comparison, as `compare` counts them: none for multiple choice

    @property
    def order(self) -> tuple[bool, bool, float, str]:
        """The order on the page: open questions first, then by DPO's gain over SFT, the lowest first."""
        gain = self.gains.get("dpo_over_sft")
        return bool(self.row.gold), gain is None, gain or 0.0, self.row.id


def read(data: Path) -> Sequence[AnsweredQuestion]:
    """All held-out questions of a run with their answers, in the order of their ids, on the disk."""
    questions = _named("", jsonl.read(data / "heldout.jsonl", HeldOut))
    answers = (_named(model, jsonl.read(data / "answers" / f"{model}.jsonl", Answer)) for model in MODELS)
    return Spool(_join(heapq.merge(questions, *answers)))


def _named(name: str, rows: Iterable[HeldOut | Answer]) -> Iterator[NamedRow]:
    return ((row.id, name, row) for row in rows)


def _join(merged: Iterable[NamedRow]) -> Iterator[AnsweredQuestion]:
    """The questions, each with the answers that have its id."""
    for _, group in groupby(merged, key=itemgetter(0)):
        rows: dict[str, Any] = {name: row for _, name, row in group}
        if question := rows.pop("", None):
            yield AnsweredQuestion(question, rows, _score_gains(rows))


def _score_gains(answers: Mapping[str, Answer]) -> dict[str, float]:
    scores = {model: compare.MEASURES["score"](row) for model, row in answers.items()}
    sides = {
        name: (scores.get(after), scores.get(before)) for name, (after, before) in compare.COMPARISONS.items()
    }
    # Scores have six decimals; the rest of a difference is binary noise.
    return {
        name: round(after - before, 6)
        for name, (after, before) in sides.items()
        if after is not None and before is not None
    }


def held_out_tab(questions: Iterable[AnsweredQuestion], tie: float, limit: int) -> Tab:
    """At most `limit` of the questions, open ones before others; the counts of words are over all.

    `questions` are read twice.
    """
    selected, total = rows.select(((bool(each.row.gold), each.row.id) for each in questions), limit)
    tab, shown = Tab(total), []
    for question in questions:
        for model, answer in question.answers.items():
            tab.words[model][len(words(answer.text))] += 1
        if question.row.id in selected:
            shown.append(question)
    tab.rows = [_show(question, tie) for question in sorted(shown, key=lambda each: each.order)]
    return tab


def result(gain: float, tie: float) -> str:
    """What a gain in score counts as: wins, ties or losses."""
    return "wins" if gain > tie else "losses" if gain < -tie else "ties"


def tallies(questions: Iterable[AnsweredQuestion], tie: float) -> dict[str, Counter[str]]:
    """How many questions each comparison wins, ties and loses by judged score."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in compare.COMPARISONS}
    for question in questions:
        for name, gain in question.gains.items():
            counts[name][result(gain, tie)] += 1
    return counts


def samples(questions: Sequence[AnsweredQuestion], worst_group: str) -> list[tuple[str, AnsweredQuestion]]:
    """Six questions to read first, each with the reason for it; fewer where there are not enough.

    Best, median and worst of DPO's gains over SFT, then of its gains over the base in the worst group of
    `compare`. No question is chosen twice. `questions` are in the order of their ids.
    """
    gains = collect(
        questions,
        {
            "dpo_over_sft": lambda each: each.gains.get("dpo_over_sft"),
            "dpo_over_base": lambda each: (
                each.gains.get("dpo_over_base") if worst_group in each.row.groups else None
            ),
        },
    )
    counts = {name: len(present(column)) for name, column in gains.items()}
    first = _extremes(gains["dpo_over_sft"])
    gains["dpo_over_base"][[*first.values()]] = np.nan
    second = _extremes(gains["dpo_over_base"])
    pools = {
        "dpo_over_sft": (first, "gains over SFT"),
        "dpo_over_base": (second, f"gains over the base in the worst group, {worst_group}"),
    }
    return [
        (f"{rank} of {counts[name]:,} {pool}: {page.signed(gains[name][number], 2)}", questions[number])
        for name, (extremes, pool) in pools.items()
        for rank, number in extremes.items()
    ]


def _extremes(gains: np.ndarray) -> dict[str, int]:
    """The number of the best, the median and the worst question; fewer of fewer than three."""
    ordered = np.argsort(-gains, kind="stable")[: len(present(gains))].tolist()
    positions = {"best": 0, "worst": len(ordered) - 1, "median": len(ordered) // 2}
    ranks = {position: rank for rank, position in reversed(positions.items()) if ordered}
    return {ranks[position]: ordered[position] for position in sorted(ranks)}


def _show(question: AnsweredQuestion, tie: float) -> dict[str, Any]:
    row, answers = question.row, question.answers
    return {
        "id": row.id,
        "kind": row.kind,
        "question": row.question,
        "reference": row.reference,
        "gold": row.gold,
        "chosen": row.chosen,
        "rejected": row.rejected,
        "groups": row.groups,
        "margin": round(gain, DECIMALS) if (gain := question.gains.get("dpo_over_sft")) is not None else None,
        "results": [f"{name}-{result(gain, tie)}" for name, gain in question.gains.items()],
        "flags": _flags(list(answers.values())),
        "answers": [
            _show_answer(series.name, answers[model]) for model, series in MODELS.items() if model in answers
        ],
    }


def _show_answer(name: str, row: Answer) -> dict[str, Any]:
    # Multiple choice is measured by its letter; neither score nor recall means much there.
    if row.correct is None:
        return rows.show_answer(name, "", row, ANSWER_SCORES, _notes(row))
    return rows.show_answer(name, "", row, (), _notes(row)) | {"letter": row.choice, "right": row.correct}


def _flags(answers: Sequence[Answer]) -> list[str]:
    scored = [row for row in answers if row.score is not None]
    open_answers = [row for row in scored if row.correct is None]
    flags = {
        "recall": any(
            (first.score - second.score) * (first.key_point_recall - second.key_point_recall) < 0
            for first, second in combinations(open_answers, 2)
        ),
        "likelier": any(_finds_rejected_likelier(row) for row in answers),
        "unscored": len(scored) < len(answers),
        "cut_off": any(row.finish_reason == "length" for row in answers),
        "wrong_letter": any(row.correct is False for row in answers),
    }
    return [name for name, is_set in flags.items() if is_set]


def _notes(row: Answer) -> list[str]:
    remarks = rows.notes(row)
    if row.reference_tokens:
        nats = f"{row.reference_logprob / row.reference_tokens:.2f}".replace("-", "−")
        remarks.append(f"log-likelihood of the reference {nats} nats per token")
    if _finds_rejected_likelier(row):
        remarks.append("finds the answer labelled worse likelier")
    return remarks


def _finds_rejected_likelier(row: Answer) -> bool:
    return row.chosen_logprob is not None and row.chosen_logprob < row.rejected_logprob
