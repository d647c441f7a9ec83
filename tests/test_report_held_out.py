"""medqa.report.held_out: sample answers, wins and losses, and the order of the rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import report_params, write_run

from medqa import compare, jsonl
from medqa.records import Answer, HeldOut
from medqa.report import RunPaths, denominators, held_out
from medqa.report.held_out import AnsweredQuestion

TIE = 0.02
GROUP = "attribute: symptoms"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def answers(run: RunPaths) -> dict[str, list[Answer]]:
    return {name: jsonl.read_all(run.data / "answers" / f"{name}.jsonl", Answer) for name in compare.MODELS}


def answered(id: str, gains: Mapping[str, float], groups: tuple[str, ...] = (), gold: str = ""):
    return AnsweredQuestion(HeldOut(id, "open", "?", "!", (), gold, "", "", "code", groups), {}, gains)


def test_wins_ties_and_losses_are_those_of_the_metrics(run: RunPaths, answers) -> None:
    compared = compare.compare(answers, [], report_params().compare, 0)
    for name, counts in held_out.tallies(held_out.read(run.data), report_params().compare.tie).items():
        assert counts.total() == compared[name]["compared"] > 0
        for result in ("wins", "ties", "losses"):
            assert counts[result] == pytest.approx(compared[name][result] * counts.total(), abs=1e-6)


@pytest.mark.parametrize(
    ("gain", "result"), [(0.03, "wins"), (0.02, "ties"), (0.0, "ties"), (-0.02, "ties"), (-0.021, "losses")]
)
def test_a_gain_up_to_the_tie_counts_as_none(gain: float, result: str) -> None:
    assert held_out.result(gain, TIE) == result


def test_samples_are_best_median_and_worst_and_no_question_twice() -> None:
    questions = [
        answered(f"q{n}", {"dpo_over_sft": n / 10, "dpo_over_base": -n / 10}, (GROUP,) if n % 2 else ())
        for n in range(11)
    ]
    chosen = [(reason, question.row.id) for reason, question in held_out.samples(questions, GROUP)]
    assert [id for _, id in chosen] == ["q10", "q5", "q0", "q1", "q7", "q9"]
    assert [reason.partition(" ")[0] for reason, _ in chosen] == ["best", "median", "worst"] * 2
    assert chosen[0][0] == "best of 11 gains over SFT: +1.00"
    assert chosen[5][0] == f"worst of 5 gains over the base in the worst group, {GROUP}: −0.90"


@pytest.mark.parametrize(("count", "ranks"), [(0, []), (1, ["best"]), (2, ["best", "worst"])])
def test_samples_of_few_questions_are_fewer(count: int, ranks: list[str]) -> None:
    questions = [answered(f"q{n}", {"dpo_over_sft": -n}) for n in range(count)]
    assert [reason.partition(" ")[0] for reason, _ in held_out.samples(questions, "")] == ranks


def test_multiple_choice_is_no_sample(run: RunPaths) -> None:
    chosen = held_out.samples(held_out.read(run.data), GROUP)
    assert len(chosen) == 6 and not any(question.row.gold for _, question in chosen)
    assert all(GROUP in question.row.groups for _, question in chosen[3:])


def test_open_questions_come_first_by_gain_then_multiple_choice_with_letters(run: RunPaths) -> None:
    rows = held_out.held_out_tab(held_out.read(run.data), TIE, 400).rows
    exams = [bool(row["gold"]) for row in rows]
    assert exams == sorted(exams) and sum(exams) == 15
    gains = [row["margin"] for row in rows if not row["gold"]]
    assert gains == sorted(gains) and len(gains) == 45
    for row in rows:
        for answer in row["answers"]:
            assert bool(answer["scores"]) == (not row["gold"])
            assert answer.get("right") == ((answer["letter"] == "B") if row["gold"] else None)
        assert bool(row["results"]) == (not row["gold"]) == (row["margin"] is not None)


def test_a_limit_leaves_open_questions_on_the_page_and_no_order_of_files_matters(run: RunPaths) -> None:
    questions = held_out.read(run.data)
    tab = held_out.held_out_tab(questions, TIE, 50)
    assert (len(tab.rows), tab.total) == (50, 60)
    assert sum(not row["gold"] for row in tab.rows) == 45
    few = held_out.held_out_tab(questions, TIE, 7).rows
    assert few == held_out.held_out_tab(sorted(questions, key=lambda each: each.order), TIE, 7).rows
    backwards = held_out.held_out_tab(list(reversed(questions)), TIE, 7).rows
    assert {row["id"] for row in few} == {row["id"] for row in backwards}


def test_each_measure_has_its_denominator(answers: dict[str, list[Answer]]) -> None:
    first, second, *rest = answers["dpo"]
    changed = answers | {"dpo": [replace(first, score=None), replace(second, finish_reason="failed"), *rest]}
    by_question = [dict(zip(changed, rows, strict=True)) for rows in zip(*changed.values(), strict=True)]
    counts = denominators.of_measures(by_question)
    assert (counts["score"], counts["token_f1"], counts["exam_accuracy"]) == ("44 to 45", "44 to 45", "15")
    assert (counts["unscored"], counts["failed"], counts["preference_alignment"]) == ("45", "60", "60")
    gains = denominators.of_gains(by_question)
    assert (gains["score"], gains["rouge_l"]) == ("43 to 45", "44 to 45")
    assert set(gains) == set(compare.MEASURES)


@pytest.mark.parametrize(
    ("counts", "words"), [([], "0"), ([5, 5], "5"), ([1200, 7], "7 to 1,200"), ([0], "0")]
)
def test_counts_in_words(counts: list[int], words: str) -> None:
    assert denominators.span(counts) == words


def test_a_question_without_answers_is_there_without_results(run: RunPaths, tmp_path: Path) -> None:
    rows = jsonl.read_all(run.data / "heldout.jsonl", HeldOut)
    jsonl.write(tmp_path / "heldout.jsonl", [replace(rows[0], id="new")])
    for name in compare.MODELS:
        jsonl.write(tmp_path / "answers" / f"{name}.jsonl", [])
    (row,) = held_out.held_out_tab(held_out.read(tmp_path), TIE, 10).rows
    assert (row["id"], row["answers"], row["results"], row["margin"]) == ("new", [], [], None)


def test_answers_are_joined_with_their_questions_by_id(run: RunPaths, tmp_path: Path, answers) -> None:
    held_out_rows = jsonl.read_all(run.data / "heldout.jsonl", HeldOut)
    jsonl.write(tmp_path / "heldout.jsonl", held_out_rows[1:])
    for name in compare.MODELS:
        skipped = slice(0, None, 2) if name == "sft" else slice(None)
        jsonl.write(tmp_path / "answers" / f"{name}.jsonl", answers[name][skipped])
    questions = held_out.read(tmp_path)
    assert [question.row for question in questions] == held_out_rows[1:]
    for number, question in enumerate(questions, 1):
        expected = {name: rows[number] for name, rows in answers.items() if name != "sft" or number % 2 == 0}
        assert question.answers == expected
        assert ("dpo_over_sft" in question.gains) == (number % 2 == 0 and not question.row.gold)
