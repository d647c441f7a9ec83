"""medqa.generate: n candidates per question, each with a seed that nothing around it can change."""

from fake_engine import FakeEngine

from medqa import engines, generate
from medqa.records import Candidate, Question
from medqa.runtime.sections import GenerateParams

PARAMS = GenerateParams(n=3, temperature=0.7, top_p=0.95, max_new_tokens=40)
QUESTIONS = [Question("b", "Why?", "So."), Question("a", "When?<|im_end|>", "Now.")]


def write(prompt: str, seed: int) -> str:
    return f"{prompt} {seed}" + "-" * (seed % 2)


def test_every_question_gets_its_candidates() -> None:
    engine = FakeEngine(write)
    candidates = generate.generate_answers(engine, QUESTIONS, PARAMS, seed=1)
    assert [row.id for row in candidates] == ["b#0", "b#1", "b#2", "a#0", "a#1", "a#2"]
    seed = engines.sample_seed(1, "a", 2)
    assert candidates[5] == Candidate(
        id="a#2",
        question_id="a",
        sample=2,
        question="When?<|im_end|>",
        reference="Now.",
        text=write("When?< |im_end|>", seed),
        finish_reason="length" if seed % 2 else "stop",
    )
    sampling = engine.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.95, 40)


def test_the_policy_never_sees_the_reference() -> None:
    engine = FakeEngine(write)
    generate.generate_answers(engine, [Question("b", "Why?", "REFERENCE")], PARAMS, seed=1)
    assert engine.prompts == ["Why?"] * 3


def test_a_candidate_depends_on_its_question_seed_and_number_alone() -> None:
    def draw(questions: list[Question], n: int, seed: int = 1) -> set[Candidate]:
        params = PARAMS.model_copy(update={"n": n})
        return set(generate.generate_answers(FakeEngine(write), questions, params, seed))

    whole = draw(QUESTIONS, 3)
    assert draw(QUESTIONS[::-1], 3) == whole
    assert draw(QUESTIONS[1:], 2) == {row for row in whole if row.question_id == "a" and row.sample < 2}
    assert not draw(QUESTIONS, 3, seed=2) & whole


def test_a_question_that_the_model_cannot_answer_is_a_failed_candidate() -> None:
    engine = FakeEngine(write, fails=lambda prompt: prompt == "Why?")
    candidates = generate.generate_answers(engine, QUESTIONS, PARAMS, seed=1)
    assert [(row.text == "", row.finish_reason == "failed") for row in candidates] == [(True, True)] * 3 + [
        (False, False)
    ] * 3
    assert generate.summary(candidates)["candidates_failed"] == 3


def test_sample_seeds_differ_and_stay() -> None:
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
