"""medqa.miniature.judge_prompts: the labels of points and sentences follow from the corrupted answer."""

import random
from itertools import islice

import pytest
from conftest import CORPUS

from medqa import prompts
from medqa.miniature import corrupted_answers, embedded, judge_prompts, scratch, token_rows, training_text
from medqa.miniature.corrupted_answers import JudgeExample
from medqa.text import normalize

YES = prompts.labels("points-short")[1]


def examples(count: int, hard: bool = True) -> list[JudgeExample]:
    facts = training_text.embedded_facts(embedded.topics(CORPUS), random.Random(0))
    return corrupted_answers.judge_examples(facts, count, 0, hard)


def groups(rows: list[JudgeExample]) -> list[list[judge_prompts.LabelledPrompt]]:
    return list(judge_prompts.labelled_prompts(rows, "points-short", seed=0))


def test_a_point_is_labelled_yes_if_the_answer_has_it() -> None:
    rows = examples(500)
    for row, group in zip(rows, groups(rows)[::2], strict=True):
        assert [prompt.compared for prompt in group] == list(row.points)
        for prompt in group:
            # A wrong point may hold a right one: "severe breathlessness" is not the point "breathlessness".
            assert prompt.label != YES or normalize(prompt.compared) in normalize(row.candidate)
            text = prompt.messages[0]["content"]
            assert text == f"{prompts.escape_control_tokens(row.candidate)}\n{prompt.compared}"


def test_a_sentence_is_labelled_by_the_share_of_its_points_that_are_right() -> None:
    rows = examples(2000)
    shares: dict[float, list[bool]] = {}
    for row, group in zip(rows, groups(rows)[1::2], strict=True):
        assert all(prompt.messages[0]["content"].startswith(row.reference) for prompt in group)
        for prompt in group:
            flags = [right for *_, right in prompt.spans]
            share = sum(flags) / len(flags) if flags else 0.0
            shares.setdefault(round(share, 2), []).append(prompt.label == YES)
            for start, stop, right in prompt.spans:
                assert (prompt.compared[start:stop] in row.points) == right
    assert not any(shares[0.0]) and all(shares[1.0])
    assert 0.55 < sum(shares[0.67]) / len(shares[0.67]) < 0.78


def test_labels_are_balanced() -> None:
    labels = [prompt.label == YES for group in groups(examples(2000)) for prompt in group]
    assert 0.35 < sum(labels) / len(labels) < 0.65


@pytest.mark.parametrize("hard", [False, True])
def test_hard_answers_are_cut_off_looped_and_wrong_in_a_detail(hard: bool) -> None:
    known = {point for topic in embedded.topics(CORPUS) for point in topic.points}
    cut = looped = damaged = 0
    for row in examples(1000, hard):
        words = row.candidate.split()
        cut += bool(row.spans) and words[-1][-1].isalpha()
        looped += len(words) > 6 and words[-3:] == words[-6:-3]
        damaged += bool({row.candidate[start:stop] for start, stop, _ in row.spans} - known)
    assert (cut > 20 and looped > 5 and damaged > 20) == hard


def test_a_row_of_points_ends_each_branch_with_its_label() -> None:
    tok = scratch.tokenizer(["Fever and cough are symptoms of influenza."] * 10, 400)
    made = list(islice(groups(examples(30)), 60))
    rows = token_rows.example_rows(tok, made, 2000)
    for group, row in zip(made, rows, strict=True):
        assert list(tok.decode(row.labels)) == [prompt.label for prompt in group]
        assert max(row.branches) == (len(group) if len(group) > 1 else 0)


def test_a_model_that_can_read_learns_from_labels_alone() -> None:
    tok = scratch.tokenizer(["Fever and cough are symptoms of influenza."] * 10, 400)
    made = groups(examples(20))
    for group, row in zip(made, token_rows.example_rows(tok, made, 2000, labels_only=True), strict=True):
        assert len(row.labels) == sum(weight > 0 for weight in row.weights) == len(group)
        assert set(row.point_labels) == {token_rows.NO_POINT}
