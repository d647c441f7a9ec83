"""The transformers engine: a row's result does not depend on what is computed beside it."""

import random
from types import SimpleNamespace

import pytest
import torch

from medqa import engines, model, prompts
from medqa.engines import continuous_batching, transformers_engine
from medqa.runtime.errors import UserError

QUESTIONS = [
    f"What are the symptoms of {name}?"
    for name in ["asthma", "gout", "measles", "scurvy", "rickets", "mumps", "cholera"]
]
QUESTIONS += [f"{question} Say it again: {question}" for question in QUESTIONS]


@pytest.fixture(scope="module")
def loaded(tiny_base):
    return model.load_merged(tiny_base, "float32"), model.tokenizer(tiny_base)


@pytest.mark.parametrize("size", [3, 8, 28])
def test_sampled_answers_do_not_depend_on_the_batch(loaded, size: int) -> None:
    sampling = engines.Sampling(temperature=0.7, top_p=0.95, max_new_tokens=12)
    wanted = [(question, sample) for question in QUESTIONS for sample in range(2)]
    alone = transformers_engine.TransformersEngine(*loaded, batch_size=1)

    def run(engine, some):
        seeds = [engines.sample_seed(0, question, sample) for question, sample in some]
        return engine.generate([prompts.ask(question) for question, _ in some], sampling, seeds)

    expected = dict(zip(wanted, run(alone, wanted), strict=True))
    shuffled = random.Random(size).sample(wanted, len(wanted))
    assert (
        dict(
            zip(
                shuffled,
                run(transformers_engine.TransformersEngine(*loaded, batch_size=size), shuffled),
                strict=True,
            )
        )
        == expected
    )
    # Two samples of a question, and another seed, are other answers.
    assert sum(expected[question, 0] != expected[question, 1] for question in QUESTIONS) > len(QUESTIONS) / 2


def test_greedy_answers_are_those_of_generate(loaded) -> None:
    net, tok = loaded
    asked = [prompts.ask(question) for question in QUESTIONS]
    sampling = engines.Sampling(temperature=0, top_p=1, max_new_tokens=12)
    given = transformers_engine.TransformersEngine(net, tok, batch_size=5).generate(
        asked, sampling, [0] * len(asked)
    )
    for messages, answer in zip(asked, given, strict=True):
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tok(text, return_tensors="pt").input_ids
        out = net.generate(input_ids=ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
        assert answer.text == tok.decode(out, skip_special_tokens=True).strip()


def test_label_probabilities_are_those_of_one_prompt_alone(loaded) -> None:
    net, tok = loaded
    asked = [prompts.ask(question) for question in QUESTIONS]
    given = transformers_engine.TransformersEngine(net, tok, batch_size=6).label_probabilities(
        asked, prompts.LABELS
    )
    ids = [tok.encode(label)[0] for label in prompts.LABELS]
    for messages, labels in zip(asked, given, strict=True):
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        every = net(input_ids=tok(text, return_tensors="pt").input_ids).logits[0, -1].softmax(-1)
        assert labels.mass == pytest.approx(float(every[ids].sum()), abs=1e-6)
        assert labels.probabilities == pytest.approx((every[ids] / every[ids].sum()).tolist(), abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8, 40])
def test_scores_are_the_same_to_the_last_bit_whatever_the_batch(loaded, size: int) -> None:
    asked = [prompts.ask(question * (1 + place % 3)) for place, question in enumerate(QUESTIONS)]
    order = random.Random(size).sample(range(len(asked)), len(asked))
    some = [asked[place] for place in order]
    usual, engine = (
        transformers_engine.TransformersEngine(*loaded, batch_size=14),
        transformers_engine.TransformersEngine(*loaded, batch_size=size),
    )
    for run in (
        lambda engine, asked: engine.label_probabilities(asked, prompts.LABELS),
        lambda engine, asked: engine.answer_logprobs(asked, ["fever and a cough"] * len(asked)),
    ):
        expected = run(usual, asked)
        assert run(engine, some) == [expected[place] for place in order]
        assert run(engine, some[:2]) == [expected[place] for place in order[:2]]


def test_scores_do_not_depend_on_the_number_of_threads(loaded) -> None:
    """Processes that share the rows also share the processor."""
    engine = transformers_engine.TransformersEngine(*loaded, batch_size=14)
    asked = [prompts.ask(question) for question in QUESTIONS]
    answers = ["fever and a cough " * (1 + place) for place in range(len(asked))]
    threads, told = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            told.append(
                (engine.label_probabilities(asked, prompts.LABELS), engine.answer_logprobs(asked, answers))
            )
    finally:
        torch.set_num_threads(threads)
    assert told[0] == told[1]


@pytest.fixture
def starved(monkeypatch):
    """Memory runs out whenever more than `room` answers are begun at once; `.tried` is how many each time."""
    state = SimpleNamespace(room=3, error=torch.OutOfMemoryError("CUDA out of memory"), tried=[])
    original = continuous_batching.ContinuousBatch.join

    def join(self, new):
        state.tried.append(len(self.alive) + len(new))
        if state.tried[-1] > state.room:
            raise state.error
        return original(self, new)

    monkeypatch.setattr(continuous_batching.ContinuousBatch, "join", join)
    return state


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_changes_no_text(loaded, starved, error: Exception) -> None:
    sampling = engines.Sampling(temperature=0.7, top_p=0.95, max_new_tokens=4)
    asked, seeds, counted = [prompts.ask(question) for question in QUESTIONS * 4], list(range(56)), []
    starved.room = 99
    expected = transformers_engine.TransformersEngine(*loaded, batch_size=16).generate(asked, sampling, seeds)
    starved.room, starved.error, starved.tried = 3, error, []
    engine = transformers_engine.TransformersEngine(*loaded, batch_size=16, progress=counted.append)
    assert engine.generate(asked, sampling, seeds) == expected
    # 16, 8 and 4 do not fit, 2 does; after some that fit, 4 is tried again.
    assert starved.tried[:4] == [16, 8, 4, 2] and 4 in starved.tried[4:] and max(starved.tried[4:]) == 4
    assert sum(counted) == 56
    starved.room = 99
    engine.generate(asked, sampling, seeds)
    assert max(starved.tried[-9:]) > 4


def test_a_row_that_never_fits_is_named_and_another_error_is_not_taken_for_it(loaded, starved) -> None:
    sampling, asked = (
        engines.Sampling(temperature=0, top_p=1, max_new_tokens=2),
        [prompts.ask("?"), prompts.ask("??")],
    )
    engine = transformers_engine.TransformersEngine(*loaded, batch_size=2)
    starved.room = 0
    with (
        pytest.raises(UserError, match="^b: does not fit into memory, even alone"),
        engines.naming(["a", "b"]),
    ):
        engine.generate(asked, sampling, [0, 0])
    starved.error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.generate(asked, sampling, [0, 0])


def test_a_label_of_several_tokens_is_refused(loaded) -> None:
    with pytest.raises(UserError, match="the labels good, excellent answer are not one token each"):
        transformers_engine.TransformersEngine(*loaded, batch_size=1).label_probabilities(
            [prompts.ask("?")], ["good", "excellent answer"]
        )


def test_answer_logprobs_sum_the_tokens_of_the_answer(loaded) -> None:
    net, tok = loaded
    answers = ["fever", "fever and a long cough", ""]
    given = transformers_engine.TransformersEngine(net, tok, batch_size=3).answer_logprobs(
        [prompts.ask("Why?")] * 3, answers
    )
    for answer, total in zip(answers, given, strict=True):
        asked = tok.apply_chat_template(prompts.ask("Why?"), tokenize=False, add_generation_prompt=True)
        whole = tok.apply_chat_template([*prompts.ask("Why?"), *prompts.reply(answer)], tokenize=False)
        ids, start = tok(whole, return_tensors="pt").input_ids, len(tok(asked).input_ids)
        each = net(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[start - 1 :]
        assert total.nats == pytest.approx(float(each.sum()), abs=1e-3)
