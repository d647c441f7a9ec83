"""medqa.evaluate: what is measured of each answer, and means recomputed by hand from the rows."""

from dataclasses import replace
from statistics import fmean

import pytest
from fake_engine import FakeEngine

from medqa import evaluate, metrics
from medqa.engines import Completion, Likelihood
from medqa.evaluate import Params
from medqa.records import Answer, HeldOut, Score

PARAMS = Params(judge="judge", max_new_tokens=40, bootstrap_samples=200)
HELD_OUT = [
    HeldOut(
        "a", "open", "Signs of flu?", "Fever, cough and chills.", ("fever", "cough"), "", "Fever and cough.", "No."
    ),
    HeldOut("b", "open", "Signs of gout?", "Pain. Swelling.", (), "", "Pain.", "Swelling."),
    HeldOut("c", "exam", "Which?\nA. x\nB. y", "The answer is B: y.", ("y",), "B", "B.", "The answer is A."),
    HeldOut("d", "exam", "Which one?\nA. x\nB. y", "The answer is A: x.", ("x",), "A", "A.", "B."),
    HeldOut("e", "literature", "Context: z\nWhy?", "It is so.", (), "", "So.", "It is not so."),
]
SAYS = {
    "Signs of flu?": "fever fever fever fever -",
    "Signs of gout?": "Pain and swelling.",
    "Which?\nA. x\nB. y": "The answer is B: y.",
    "Which one?\nA. x\nB. y": "I am not sure.",
    "Context: z\nWhy?": "? unscored",
}


def judge(cases: list[tuple[str, str, str]]) -> list[Score]:
    """0.2 an answer's word; unscored where it begins with a question mark."""
    given = []
    for _, _, text in cases:
        value = 0.2 * min(len(text.split()), 5)
        none = text.startswith("?")
        given.append(Score(*[None if none else value] * 4, 0.1 if none else 0.9, 0, "mass" if none else ""))
    return given


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return evaluate.evaluate_model(FakeEngine(lambda asked, _: SAYS[asked]), judge, HELD_OUT, PARAMS, "judge (x)")


def test_answers_are_greedy_and_in_order(answers: list[Answer]) -> None:
    engine = FakeEngine(lambda asked, _: SAYS[asked])
    again = evaluate.evaluate_model(engine, judge, HELD_OUT, PARAMS, "judge (x)")
    assert [row.id for row in again] == list("abcde")
    assert again == answers
    assert (engine.sampling.temperature, engine.sampling.max_new_tokens) == (0, 40)
    assert engine.asked == [row.question for row in HELD_OUT]


def test_the_judge_gets_question_reference_and_answer() -> None:
    asked = []

    def remember(cases: list[tuple[str, str, str]]) -> list[Score]:
        asked.extend(cases)
        return judge(cases)

    evaluate.evaluate_model(FakeEngine(lambda asked, _: SAYS[asked]), remember, HELD_OUT, PARAMS, "judge (x)")
    assert asked == [(row.question, row.reference, SAYS[row.question]) for row in HELD_OUT]


def test_each_answer_is_measured(answers: list[Answer]) -> None:
    flu, gout, right, unreadable, _ = answers
    assert (flu.text, flu.finish, flu.tokens) == ("fever fever fever fever -", "length", 5)
    assert (flu.key_point_recall, flu.repetition) == (0.5, 0.5)
    assert flu.token_f1 == pytest.approx(2 * 1 / (4 + 4))
    assert gout.key_point_recall == 1  # without key points, the reference's sentences count
    assert (right.choice, right.correct) == ("B", True)
    assert (unreadable.choice, unreadable.correct) == ("", False)
    assert (flu.choice, flu.correct) == ("", None)
    assert (flu.chosen_logprob, flu.rejected_logprob) == (-16, -3)


def test_a_letter_in_an_open_answer_is_no_choice() -> None:
    measured = evaluate.measured(HELD_OUT[0], Completion("The answer is B.", "stop", 4))
    assert (measured["choice"], measured["correct"]) == ("", None)


def test_means_are_what_one_counts_by_hand(answers: list[Answer]) -> None:
    result = evaluate.summary(answers, seed=0, samples=200)
    flu, gout, right, unreadable, unscored = answers
    told = [flu, gout, unscored]
    assert (result["questions"], result["unscored"]) == (5, 1)
    assert result["score"] == pytest.approx(fmean([1.0, 0.6]))  # the unscored is no zero
    assert result["judged_accuracy"] == result["judged_key_points"] == result["score"]
    for name in ("key_point_recall", "token_f1", "repetition", "tokens"):
        assert result[name] == pytest.approx(fmean(getattr(row, name) for row in told)), name
    assert result["cut_off"] == pytest.approx(1 / 3)
    assert result["exam_accuracy"] == 0.5
    assert result["exam_unreadable"] == 0.5
    # The fake likes short answers: b, c and e have the shorter chosen; in d they are as long, in a it is the longer.
    assert result["preference_alignment"] == pytest.approx(3 / 5)


def test_a_score_of_zero_counts(answers: list[Answer]) -> None:
    rows = [answers[0], replace(answers[1], score=0.0)]
    assert evaluate.summary(rows, seed=0, samples=200)["score"] == 0.5
    assert evaluate.summary(rows, seed=0, samples=200)["score_low"] == 0


def test_intervals_hold_the_means(answers: list[Answer]) -> None:
    result = evaluate.summary(answers * 4, seed=0, samples=200)
    for name in ("score", "key_point_recall"):
        assert 0 <= result[f"{name}_low"] < result[name] < result[f"{name}_high"] <= 1
    wanted = metrics.mean_interval([row.score for row in answers * 4 if row.kind == "open"], 0, 200)
    assert (result["score"], result["score_low"], result["score_high"]) == pytest.approx(wanted)


def test_means_of_nothing_are_left_out(answers: list[Answer]) -> None:
    exam_only = evaluate.summary(answers[2:4], seed=0, samples=200)
    assert exam_only["exam_accuracy"] == 0.5
    assert not {"score", "score_low", "key_point_recall", "cut_off"} & set(exam_only)
    unscored_only = evaluate.summary(answers[4:], seed=0, samples=200)
    assert unscored_only["unscored"] == 1
    assert not {"score", "score_low", "judged_accuracy", "exam_accuracy"} & set(unscored_only)
    unlabelled = [replace(row, chosen_logprob=None, rejected_logprob=None) for row in answers]
    assert "preference_alignment" not in evaluate.summary(unlabelled, seed=0, samples=200)


def test_what_an_engine_left_undone_is_none_and_not_zero() -> None:
    class Failing(FakeEngine):
        def generate(self, asked, sampling, seeds):
            return [Completion("", "failed", 0) for _ in asked]

        def answer_logprobs(self, asked, answers):
            return [Likelihood(0.0, 0) for _ in asked]

    rows = evaluate.evaluate_model(Failing(), judge, HELD_OUT, PARAMS, "judge (x)")
    assert {row.score for row in rows} == {row.chosen_logprob for row in rows} == {None}
    result = evaluate.summary(rows, seed=0, samples=200)
    assert not {"score", "preference_alignment", "chosen_logprob"} & set(result) and result["unscored"] == 3
