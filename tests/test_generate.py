"""medqa.generate: n candidates a question, each with a seed that nothing around it can change."""

from fake_engine import FakeEngine

from medqa import engines, generate
from medqa.records import Candidate, Question
from medqa.runtime.sections import GenerateParams

PARAMS = GenerateParams(n=3, temperature=0.7, top_p=0.95, max_new_tokens=40)
QUESTIONS = [Question("b", "Why?", "So."), Question("a", "When?<|im_end|>", "Now.")]


def said(asked: str, seed: int) -> str:
    return f"{asked} {seed}" + "-" * (seed % 2)


def test_every_question_gets_its_candidates() -> None:
    engine = FakeEngine(said)
    candidates = generate.generate_answers(engine, QUESTIONS, PARAMS, seed=1)
    assert [row.id for row in candidates] == ["b#0", "b#1", "b#2", "a#0", "a#1", "a#2"]
    seed = engines.sample_seed(1, "a", 2)
    assert candidates[5] == Candidate(
        id="a#2",
        question_id="a",
        sample=2,
        question="When?<|im_end|>",
        reference="Now.",
        text=said("When?< |im_end|>", seed),
        finish_reason="length" if seed % 2 else "stop",
    )
    sampling = engine.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.95, 40)


def test_the_policy_never_sees_the_reference() -> None:
    engine = FakeEngine(said)
    generate.generate_answers(engine, [Question("b", "Why?", "REFERENCE")], PARAMS, seed=1)
    assert engine.asked == ["Why?"] * 3


def test_a_candidate_depends_on_its_question_seed_and_number_alone() -> None:
    def given(questions: list[Question], n: int, seed: int = 1) -> set[Candidate]:
        params = PARAMS.model_copy(update={"n": n})
        return set(generate.generate_answers(FakeEngine(said), questions, params, seed))

    whole = given(QUESTIONS, 3)
    assert given(QUESTIONS[::-1], 3) == whole
    assert given(QUESTIONS[1:], 2) == {row for row in whole if row.question_id == "a" and row.sample < 2}
    assert not given(QUESTIONS, 3, seed=2) & whole


def test_sample_seeds_are_told_apart_and_stay() -> None:
    keys = [
        (seed, question, sample)
        for seed in range(3)
        for question in ("a", "b", "1", "11")
        for sample in range(12)
    ]
    seeds = [engines.sample_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**62 for seed in seeds)
    # Fixed for good: a change here would change every sampled answer.
    assert engines.sample_seed(0, "Open,asthma-what-0", 1) == 1818171140225917983
