"""medqa.guards: what DPO may lose, counted by hand."""

import random
from collections import Counter

import pytest
from fake_trial import PARAMS, simulate

from medqa import guards


@pytest.mark.parametrize(
    ("after", "before", "rise"),
    [
        (["a b c d e", "x a b c d"], ["one", "two"], 1.0),  # the same four words in both
        (["a b c d e", "x b c d"], ["one", "two"], 0.5),  # three words are no phrase
        (["a b c d e", "x a b c d"], ["a b c d", "two"], 0.5),
        (["a b c d e"], ["a b c d e"], 0.0),
        (["a b c d", "f"], ["a b c d", "a b c d"], 0.5),  # a new short answer; a phrase that fell is no loss
        (["Ask a doctor.", "Ask a doctor!"], ["one", "two"], 1.0),  # short answers count as a whole
        (["a b c d a b c d"], ["one"], 1.0),  # once per answer
        (["", ""], ["one", "two"], 1.0),
    ],
)
def test_phrase_rise(after: list[str], before: list[str], rise: float) -> None:
    assert guards.phrase_rise([*zip(after, before, strict=True)]) == rise


@pytest.mark.parametrize("buckets", [1, 2, 16])
@pytest.mark.parametrize("seed", range(10))
def test_the_phrase_that_rises_most_is_found_whatever_shares_its_bucket(monkeypatch, buckets, seed) -> None:
    monkeypatch.setattr(guards, "BUCKETS", buckets)
    rng = random.Random(seed)
    after, before = ([" ".join(rng.choices("abc", k=rng.randint(0, 9))) for _ in range(30)] for _ in "ab")
    rises: Counter[str] = Counter()
    for texts, sign in ((after, 1), (before, -1)):
        for text in texts:
            parts = text.split()
            phrases = {" ".join(parts[n : n + 4]) for n in range(len(parts) - 3)} or {text}
            rises.update(dict.fromkeys(phrases, sign))
    assert guards.phrase_rise([*zip(after, before, strict=True)]) == max(0, *rises.values()) / 30


def test_a_judge_that_is_silent_is_a_loss() -> None:
    trial = simulate(0)
    edited = trial.change("dpo", lambda n, row: row if n % 4 else type(row)(**{**vars(row), "score": None}))
    changes = guards.regressions(edited.models["dpo"], trial.models["sft"])
    assert changes["unscored_rise"] == 0.25
    assert guards.failed_guards(changes, PARAMS.guards) == ["unscored_rise"]
