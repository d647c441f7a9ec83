"""medqa.evaluate: what is measured of each answer, and means recomputed by hand from the rows."""

from dataclasses import replace
from statistics import fmean

import pytest
from fake_engine import FakeEngine, by_candidate, embed

from medqa import evaluate, metrics
from medqa.engines import Completion, Failure, Likelihood
from medqa.engines.cached import CachedEngine
from medqa.records import Answer, HeldOut
from medqa.runtime.errors import UserError
from medqa.runtime.sections import EvaluateParams, JudgeParams

PARAMS = EvaluateParams(judge="judge", max_new_tokens=40, bootstrap_samples=200)
JUDGING = JudgeParams(
    method="grades",
    template="judge-short",
    criteria={"accuracy": 1, "completeness": 1, "key_points": 1},
    min_mass=0.5,
    max_chars=600,
)
HELD_OUT = [
    HeldOut(
        "a",
        "open",
        "Signs of flu?",
        "Fever, cough and chills.",
        ("fever", "cough"),
        "",
        "Fever and cough.",
        "No.",
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


def grader() -> FakeEngine:
    """0.2 per word of an answer; unscored where it begins with a question mark."""
    return FakeEngine(
        judges=by_candidate(lambda text: None if text[0] == "?" else 0.2 * min(len(text.split()), 5))
    )


def evaluated(policy, rows: list[HeldOut] = HELD_OUT) -> list[Answer]:
    return list(evaluate.evaluate_model(policy, grader(), embed, rows, PARAMS, JUDGING, "judge (x)"))


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return evaluated(FakeEngine(lambda prompt, _: SAYS[prompt]))


def test_answers_are_greedy_and_in_order(answers: list[Answer]) -> None:
    policy = FakeEngine(lambda prompt, _: SAYS[prompt])
    again = evaluated(policy)
    assert [row.id for row in again] == list("abcde")
    assert again == answers
    assert (policy.sampling.temperature, policy.sampling.max_new_tokens) == (0, 40)
    assert policy.prompts[: len(HELD_OUT)] == [row.question for row in HELD_OUT]


def test_the_judge_gets_question_reference_and_answer() -> None:
    engine = FakeEngine()
    params = JUDGING.model_copy(update={"template": "judge"})
    policy = FakeEngine(lambda prompt, _: SAYS[prompt])
    evaluate.evaluate_model(policy, engine, embed, HELD_OUT, PARAMS, params, "judge (x)")
    for row, prompt in zip(HELD_OUT, engine.prompts[::3], strict=True):
        assert all(text in prompt for text in (row.question, row.reference, SAYS[row.question]))


def test_each_answer_is_measured(answers: list[Answer]) -> None:
    flu, gout, right, unreadable, _ = answers
    assert (flu.text, flu.finish_reason, flu.tokens) == ("fever fever fever fever -", "length", 5)
    assert (flu.key_point_recall, flu.repetition) == (0.5, 0.5)
    assert flu.token_f1 == pytest.approx(2 * 1 / (4 + 4))
    assert gout.key_point_recall == 1  # without key points, the reference's sentences count
    assert (right.choice, right.correct) == ("B", True)
    assert (unreadable.choice, unreadable.correct) == ("", False)
    assert (flu.choice, flu.correct) == ("", None)
    assert (flu.chosen_logprob, flu.rejected_logprob) == (-16, -3)
    assert flu.rouge_l == pytest.approx(2 * 1 / (4 + 4))
    assert gout.rouge_l == pytest.approx(2 * 2 / (3 + 2))
    # One word of four; and each sentence of the reference is one word of three.
    assert flu.coverage == pytest.approx(4 / 4 / 2) and gout.coverage == pytest.approx(3**-0.5, abs=1e-6)
    # A reference's likelihood is the model's own, whatever it answered, and multiple choice has one too.
    likelihoods = [(row.reference_logprob, row.reference_tokens) for row in (flu, gout, right)]
    assert likelihoods == [(-24, 4), (-15, 2), (-19, 5)]


def test_an_empty_reference_has_no_likelihood() -> None:
    rows = [replace(HELD_OUT[0], reference=""), HELD_OUT[1]]
    empty, full = evaluated(FakeEngine(), rows)
    assert (empty.reference_logprob, empty.reference_tokens, empty.chosen_logprob) == (None, None, -16)
    assert (empty.rouge_l, empty.token_f1, empty.coverage) == (0, 0, None)
    assert evaluate.summary([empty, full], seed=0, samples=200)["reference_logprob"] == pytest.approx(-15 / 2)


def test_coverage_is_of_the_best_sentence_for_each_of_the_reference() -> None:
    says = {"Signs of flu?": "A rash. Fever, cough and chills.", "Signs of gout?": "..."}
    flu, gout = evaluated(FakeEngine(lambda prompt, _: says[prompt]), HELD_OUT[:2])
    assert (flu.coverage, gout.coverage) == (1, 0)  # an answer without words covers nothing
    result = evaluate.summary([flu, gout], seed=0, samples=200)
    assert result["coverage_low"] < result["coverage"] == 0.5 < result["coverage_high"]
    without = [replace(row, coverage=None) for row in (flu, gout)]
    assert "coverage" not in evaluate.summary(without, seed=0, samples=200)


def cached(inner: FakeEngine) -> CachedEngine:
    return CachedEngine(lambda: inner, None, ("base", "base"), [], 0)


def test_a_reference_that_is_the_chosen_answer_is_read_once() -> None:
    inner, rows = FakeEngine(), [replace(HELD_OUT[0], reference="Fever and cough."), HELD_OUT[4]]
    flu, why = evaluated(cached(inner), rows)
    texts = ["Fever and cough.", "No.", "So.", "It is not so.", "It is so."]
    assert sorted(inner.answers) == sorted(texts)
    assert flu.reference_logprob == flu.chosen_logprob == -16 and why.reference_logprob == -9


def test_a_text_that_cannot_be_read_is_named_by_its_question() -> None:
    class Forgetful(FakeEngine):
        def answer_logprobs(self, requests):
            for request in requests:
                yield (
                    request.id,
                    Failure("it is too long") if request.answer == "Swelling." else Likelihood(-1.0, 1),
                )

    with pytest.raises(UserError, match="^b:rejected: it is too long$"):
        evaluated(cached(Forgetful()), HELD_OUT[:2])


def test_a_letter_in_an_open_answer_is_no_choice() -> None:
    measured = evaluate.judge_free_measures(HELD_OUT[0], Completion("The answer is B.", "stop", 4))
    assert (measured["choice"], measured["correct"]) == ("", None)


def test_a_letter_is_read_among_those_that_the_question_offers() -> None:
    question = "Which?" + "".join(f"\n{letter}. x" for letter in "ABCDEFGHIJ")
    row = replace(HELD_OUT[2], question=question, gold="I")
    for answer, choice in (("The answer is I.", "I"), ("I think it is B", "B"), ("答案是E", "E")):
        measured = evaluate.judge_free_measures(row, Completion(answer, "stop", 4))
        assert (measured["choice"], measured["correct"]) == (choice, choice == "I")
    # A gold letter can be read wherever the question hides its options.
    measured = evaluate.judge_free_measures(
        replace(row, question="Which?", gold="F"), Completion("F", "stop", 1)
    )
    assert measured["correct"]


def test_means_are_what_one_counts_by_hand(answers: list[Answer]) -> None:
    result = evaluate.summary(answers, seed=0, samples=200)
    flu, gout, right, unreadable, unscored = answers
    open_ended = [flu, gout, unscored]
    assert (result["questions"], result["unscored"]) == (5, 1)
    assert result["score"] == pytest.approx(fmean([1.0, 0.6]))  # the unscored is no zero
    assert result["judged_accuracy"] == result["judged_key_points"] == result["score"]
    for name in ("key_point_recall", "token_f1", "rouge_l", "coverage", "repetition", "tokens"):
        assert result[name] == pytest.approx(fmean(getattr(row, name) for row in open_ended)), name
    assert result["cut_off"] == pytest.approx(1 / 3)
    assert result["reference_logprob"] == pytest.approx(fmean([-24 / 4, -15 / 2, -9 / 3]))  # nats per token
    assert result["exam_accuracy"] == 0.5
    assert result["exam_unreadable"] == 0.5
    # The fake likes short answers: b, c and e have the shorter chosen; in d it is a tie, in a it is the
    # longer.
    assert result["preference_alignment"] == pytest.approx(3.5 / 5)


def test_open_answers_are_measured_by_group(answers: list[Answer]) -> None:
    flu, gout, right, _, unscored = answers
    rows = [replace(flu, groups=("kind: open", "source: A"))] * 5
    rows += [replace(gout, groups=("kind: open", "source: B"))] * 6
    rows += [replace(right, groups=("source: A",)), replace(unscored, groups=("source: B",))] * 3
    result = evaluate.summary([*rows, gout], seed=0, samples=200)
    assert (list(result["by"]), result["small_groups"]) == (["kind: open", "source: A", "source: B"], 0)
    group = result["by"]["source: A"]
    assert (group["rows"], group["score"], group["key_point_recall"]) == (5, 1.0, 0.5)
    assert group["token_f1"] == group["token_f1_low"] == pytest.approx(flu.token_f1)
    assert result["by"]["kind: open"]["score"] == pytest.approx((5 * 1.0 + 6 * 0.6) / 11)


def test_an_answer_has_the_groups_of_its_question() -> None:
    rows = [replace(row, groups=(f"kind: {row.kind}",)) for row in HELD_OUT]
    measured = evaluated(FakeEngine(lambda prompt, _: SAYS[prompt]), rows)
    assert [row.groups for row in measured] == [row.groups for row in rows]


def test_a_score_of_zero_counts(answers: list[Answer]) -> None:
    rows = [answers[0], replace(answers[1], score=0.0)]
    assert evaluate.summary(rows, seed=0, samples=200)["score"] == 0.5
    assert evaluate.summary(rows, seed=0, samples=200)["score_low"] == 0


def test_intervals_hold_the_means(answers: list[Answer]) -> None:
    result = evaluate.summary(answers * 4, seed=0, samples=200)
    for name in ("score", "key_point_recall", "token_f1", "rouge_l", "coverage", "reference_logprob"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"], name
    expected = metrics.mean_interval([row.score for row in answers * 4 if row.kind == "open"], 0, 200)
    assert (result["score"], result["score_low"], result["score_high"]) == pytest.approx(expected)


def test_means_of_nothing_are_left_out(answers: list[Answer]) -> None:
    exam_only = evaluate.summary(answers[2:4], seed=0, samples=200)
    assert exam_only["exam_accuracy"] == 0.5
    assert not {"score", "score_low", "key_point_recall", "rouge_l", "reference_logprob", "cut_off"} & set(
        exam_only
    )
    unscored_only = evaluate.summary(answers[4:], seed=0, samples=200)
    assert unscored_only["unscored"] == 1
    assert not {"score", "score_low", "judged_accuracy", "exam_accuracy"} & set(unscored_only)
    unlabelled = [replace(row, chosen_logprob=None, rejected_logprob=None) for row in answers]
    assert "preference_alignment" not in evaluate.summary(unlabelled, seed=0, samples=200)


def test_what_an_engine_could_not_do_is_none_and_not_zero() -> None:
    rows = evaluated(FakeEngine(fails=lambda prompt: True))
    for name in ("score", "chosen_logprob", "reference_logprob", "reference_tokens"):
        assert {getattr(row, name) for row in rows} == {None}, name
    result = evaluate.summary(rows, seed=0, samples=200)
    assert not {"score", "preference_alignment", "chosen_logprob", "reference_logprob"} & set(result)
    assert not {"token_f1", "rouge_l", "coverage", "repetition", "tokens", "cut_off"} & set(result)
    assert not {"exam_accuracy", "exam_unreadable"} & set(result)
    assert (result["failed"], result["unscored"]) == (5, 3)
