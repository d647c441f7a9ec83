"""The transformers engine: a row's result does not depend on what is computed beside it."""

import random
from types import SimpleNamespace

import pytest
import torch
from fake_engine import requests

from medqa import engines, model, prompts
from medqa.engines import Request, Sampling, continuous_batching, prefix_tree
from medqa.engines.transformers_engine import TransformersEngine
from medqa.runtime.errors import UserError

QUESTIONS = [
    f"What are the symptoms of {name}?"
    for name in ["asthma", "gout", "measles", "scurvy", "rickets", "mumps", "cholera"]
]
QUESTIONS += [f"{question} Say it again: {question}" for question in QUESTIONS]
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=12)


@pytest.fixture(scope="module")
def loaded(tiny_base):
    return model.load_merged(tiny_base, "float32"), model.tokenizer(tiny_base)


def prompt(tok, question: str) -> str:
    return tok.apply_chat_template(prompts.ask(question), tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("size", [3, 8, 28])
def test_sampled_answers_do_not_depend_on_the_batch(loaded, size: int) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=12)
    samples = [
        Request(f"{question}#{n}", prompts.ask(question), engines.sample_seed(0, question, n))
        for question in QUESTIONS
        for n in range(2)
    ]
    expected = dict(TransformersEngine(*loaded, batch_size=1).generate(samples, sampling))
    shuffled = random.Random(size).sample(samples, len(samples))
    assert dict(TransformersEngine(*loaded, batch_size=size).generate(shuffled, sampling)) == expected
    # Two samples of a question, and another seed, are other answers.
    different = sum(expected[f"{question}#0"] != expected[f"{question}#1"] for question in QUESTIONS)
    assert different > len(QUESTIONS) / 2


def test_greedy_answers_are_those_of_generate(loaded) -> None:
    net, tok = loaded
    results = dict(TransformersEngine(net, tok, batch_size=5).generate(requests(QUESTIONS), GREEDY))
    for n, question in enumerate(QUESTIONS):
        ids = tok(prompt(tok, question), return_tensors="pt").input_ids
        out = net.generate(input_ids=ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
        assert results[f"q{n}"].text == tok.decode(out, skip_special_tokens=True).strip()


def test_label_probabilities_are_those_of_one_prompt_alone(loaded) -> None:
    net, tok = loaded
    engine = TransformersEngine(net, tok, batch_size=6)
    results = dict(engine.label_probabilities(requests(QUESTIONS), prompts.LABELS))
    ids = [tok.encode(label)[0] for label in prompts.LABELS]
    for n, question in enumerate(QUESTIONS):
        inputs = tok(prompt(tok, question), return_tensors="pt").input_ids
        probabilities = net(input_ids=inputs).logits[0, -1].softmax(-1)[ids]
        mass = float(probabilities.sum())
        assert results[f"q{n}"].mass == pytest.approx(mass, abs=1e-6)
        assert results[f"q{n}"].probabilities == pytest.approx((probabilities / mass).tolist(), abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8, 40])
def test_scores_are_the_same_to_the_last_bit_whatever_the_batch(loaded, size: int) -> None:
    questions = [question * (1 + n % 3) for n, question in enumerate(QUESTIONS)]
    rows = requests(questions, answer="fever and a cough")
    shuffled = random.Random(size).sample(rows, len(rows))
    usual, engine = (TransformersEngine(*loaded, batch_size=count) for count in (14, size))
    for run in (
        lambda engine, rows: dict(engine.label_probabilities(rows, prompts.LABELS)),
        lambda engine, rows: dict(engine.answer_logprobs(rows)),
    ):
        expected = run(usual, rows)
        assert run(engine, shuffled) == expected
        assert run(engine, shuffled[:2]).items() <= expected.items()


def test_scores_do_not_depend_on_the_number_of_threads(loaded) -> None:
    """Processes that share the rows also share the processor."""
    engine = TransformersEngine(*loaded, batch_size=14)
    rows = [
        Request(f"q{n}", prompts.ask(question), answer="fever and a cough " * (1 + n))
        for n, question in enumerate(QUESTIONS)
    ]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            labels = dict(engine.label_probabilities(rows, prompts.LABELS))
            results.append((labels, dict(engine.answer_logprobs(rows))))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


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
    sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=4)
    rows = [Request(f"q{n}", prompts.ask(question), n) for n, question in enumerate(QUESTIONS * 4)]
    starved.room = 99
    expected = dict(TransformersEngine(*loaded, batch_size=16).generate(rows, sampling))
    starved.room, starved.error, starved.tried = 3, error, []
    engine = TransformersEngine(*loaded, batch_size=16)
    results = list(engine.generate(rows, sampling))
    assert dict(results) == expected and len(results) == 56
    # 16, 8 and 4 do not fit, 2 does; after some that fit, 4 is tried again.
    assert starved.tried[:4] == [16, 8, 4, 2] and 4 in starved.tried[4:] and max(starved.tried[4:]) == 4
    starved.room = 99
    list(engine.generate(rows, sampling))
    assert max(starved.tried[-9:]) > 4


def test_a_row_that_never_fits_fails_and_another_error_is_not_taken_for_it(loaded, starved) -> None:
    engine = TransformersEngine(*loaded, batch_size=2)
    starved.room = 0
    results = dict(engine.generate(requests(["?", "??"]), GREEDY))
    assert [*results] == ["q1", "q0"]  # longest first
    assert all(each.reason.startswith("does not fit into memory, even alone") for each in results.values())
    starved.room, starved.tried = 1, []
    answers = dict(engine.generate(requests(["?", "??"]), GREEDY))
    assert all(isinstance(each, engines.Completion) for each in answers.values())
    starved.room, starved.error = 0, RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(engine.generate(requests(["?"]), GREEDY))


@pytest.mark.parametrize("operation", ["label_probabilities", "answer_logprobs"])
def test_a_prompt_that_is_too_large_to_read_fails_and_the_others_are_read(
    loaded, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    original, engine = prefix_tree.build, TransformersEngine(*loaded, batch_size=8)

    def build(rows, *settings):
        if sum(map(len, rows)) > 60:
            raise MemoryError
        return original(rows, *settings)

    rows = requests([*QUESTIONS[:4], "gout " * 60], answer="fever")
    labels = [prompts.LABELS] if operation == "label_probabilities" else []
    expected = dict(getattr(engine, operation)(rows, *labels))
    monkeypatch.setattr(prefix_tree, "build", build)
    results = dict(getattr(engine, operation)(rows, *labels))
    assert results.pop("q4").reason.startswith("does not fit into memory, even alone")
    assert results.items() < expected.items()


def test_a_label_of_several_tokens_is_refused(loaded) -> None:
    engine = TransformersEngine(*loaded, batch_size=1)
    with pytest.raises(UserError, match="the labels good, excellent answer are not one token each"):
        list(engine.label_probabilities(requests(["?"]), ["good", "excellent answer"]))


def test_answer_logprobs_sum_the_tokens_of_the_answer(loaded) -> None:
    net, tok = loaded
    start = len(tok(prompt(tok, "Why?")).input_ids)
    answers = ["fever", "fever and a long cough", ""]
    rows = [Request(answer, prompts.ask("Why?"), answer=answer) for answer in answers]
    results = dict(TransformersEngine(net, tok, batch_size=3).answer_logprobs(rows))
    for answer in answers:
        text = tok.apply_chat_template([*prompts.ask("Why?"), *prompts.reply(answer)], tokenize=False)
        ids = tok(text, return_tensors="pt").input_ids
        logprobs = net(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
        assert results[answer].nats == pytest.approx(float(logprobs[start - 1 :].sum()), abs=1e-3)
