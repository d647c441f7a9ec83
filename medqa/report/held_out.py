"""The held-out questions on the page: gains of each comparison, the rows to browse, and sample answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from medqa import compare, jsonl
from medqa.records import Answer, HeldOut
from medqa.report import page, rows
from medqa.report.labels import MODELS
from medqa.report.rows import ANSWER_SCORES, DECIMALS, Tab
from medqa.text import words


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


def read(data: Path) -> list[AnsweredQuestion]:
    """All held-out questions of a run with their answers, in the order of the page."""
    answers: dict[str, dict[str, Answer]] = {}
    for model in MODELS:
        for answer in jsonl.read(data / "answers" / f"{model}.jsonl", Answer):
            answers.setdefault(answer.id, {})[model] = answer
    questions = []
    for row in jsonl.read(data / "heldout.jsonl", HeldOut):
        by_model = answers.get(row.id, {})
        questions.append(AnsweredQuestion(row, by_model, _score_gains(by_model)))
    return sorted(questions, key=lambda question: question.order)


def _score_gains(answers: Mapping[str, Answer]) -> dict[str, float]:
    gains: dict[str, float] = {}
    for name, (after, before) in compare.COMPARISONS.items():
        if {after, before} <= answers.keys():
            _, measured = compare.paired_gains([(answers[after], answers[before])])
            # Scores have six decimals; the rest of a difference is binary noise.
            gains |= [(name, round(gain, 6)) for gain in measured["score"]]
    return gains


def held_out_tab(questions: Sequence[AnsweredQuestion], tie: float, limit: int) -> Tab:
    """At most `limit` of the questions, open ones before others; the counts of words are over all."""
    multiple_choice = {question.row.id: bool(question.row.gold) for question in questions}
    selected, total = rows.select(multiple_choice, limit, multiple_choice.__getitem__)
    tab = Tab(total, [_show(question, tie) for question in questions if question.row.id in selected])
    for question in questions:
        for model, answer in question.answers.items():
            tab.words[model][len(words(answer.text))] += 1
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
    `compare`. No question is chosen twice.
    """
    compared = [question for question in questions if "dpo_over_sft" in question.gains]
    chosen = _extremes(compared, "dpo_over_sft", f"of {len(compared):,} gains over SFT")
    shown = {question.row.id for _, question in chosen}
    members = [
        question
        for question in questions
        if "dpo_over_base" in question.gains and worst_group in question.row.groups
    ]
    rest = [question for question in members if question.row.id not in shown]
    pool = f"of {len(members):,} gains over the base in the worst group, {worst_group}"
    return chosen + _extremes(rest, "dpo_over_base", pool)


def _extremes(
    questions: Sequence[AnsweredQuestion], name: str, pool: str
) -> list[tuple[str, AnsweredQuestion]]:
    """Best, median and worst by the gain of a comparison, each with its reason; fewer of fewer than three."""
    ordered = sorted(questions, key=lambda question: (-question.gains[name], question.row.id))
    positions = {"best": 0, "worst": len(ordered) - 1, "median": len(ordered) // 2}
    ranks = {position: rank for rank, position in reversed(positions.items()) if ordered}
    return [
        (f"{ranks[position]} {pool}: {page.signed(ordered[position].gains[name], 2)}", ordered[position])
        for position in sorted(ranks)
    ]


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
