"""medqa.miniature.contrasts: neighbours beside each other, and exactly one text that says a statement."""

import random

import numpy as np

from medqa import attacks
from medqa.miniature import contrasts
from medqa.miniature.contrasts import QuestionAnswer

KINDS = ("What is", "What causes", "How common is", "Is it inherited:")
ROWS = [
    QuestionAnswer(f"{kind} disease {n}?", f"Fact {n} {k} first. Fact {n} {k} second. Everyone knows it.")
    for n in range(12)
    for k, kind in enumerate(KINDS)
]
VECTORS = np.eye(12, dtype=np.float32).repeat(4, axis=0)  # questions about one disease are equal


def test_neighbours_are_the_nearest() -> None:
    nearest = contrasts.neighbours(VECTORS)
    assert nearest.shape == (48, contrasts.NEIGHBOURS)
    for number, row in enumerate(nearest):
        assert number not in row
        assert {near // 4 for near in row[:3]} == {number // 4}


def test_a_batch_holds_groups_and_a_pass_holds_no_row_twice() -> None:
    batches = contrasts.batches(ROWS, contrasts.neighbours(VECTORS), 16, random.Random(0))
    first_pass = [next(batches) for _ in range(3)]
    assert len({row for batch in first_pass for row in batch}) == 48
    for batch in first_pass:
        diseases = [row.question.split()[-1] for row in batch]
        assert max(diseases.count(name) for name in diseases) >= 3


def test_equal_answers_are_in_no_group_together() -> None:
    rows = [QuestionAnswer(f"What is it {n}?", "The same answer.") for n in range(8)]
    batch = next(
        contrasts.batches(rows, contrasts.neighbours(np.ones((8, 2), np.float32)), 2, random.Random(0))
    )
    assert len(batch) == 2


def test_exactly_one_text_counts_as_right() -> None:
    rng, adversarial = random.Random(0), attacks.training_attacks()
    for start in range(0, 48, 16):
        batch = ROWS[start : start + 16]
        made = contrasts.contrast(batch, adversarial, rng)
        assert made.texts[:16] == [row.answer for row in batch]
        assert made.statements[:16] == [row.question for row in batch]
        assert len(made.statements) == len(made.right) == 32 and made.right[16:] == list(range(16))
        ignored = set(made.ignored)
        assert not ignored & set(enumerate(made.right))
        for number, row in enumerate(batch):
            points = row.answer.split(". ")[0]
            for position, text in enumerate(made.texts[16:], 16):
                if points in text:  # a copy of the answer answers its question too
                    assert (number, position) in ignored
        shortened = [text for text in made.texts[16:] if text.count(".") == 2 and text.startswith("Fact")]
        assert shortened


def test_echoes_and_attempts_are_wrong_for_every_question() -> None:
    made = contrasts.contrast(ROWS[:20], attacks.training_attacks(), random.Random(1))
    bare = [n for n, text in enumerate(made.texts) if "Fact" not in text and "Everyone" not in text]
    assert len(bare) >= 6
    assert not {text for _, text in made.ignored} & set(bare)


def test_no_attack_of_the_evaluation_is_among_the_echoes() -> None:
    evaluated = {attack.text("What is gout?", "") for attack in attacks.evaluation_attacks()}
    assert not evaluated & {
        echo.format(question="What is gout?") for echo in attacks.training_attacks().echoes
    }
