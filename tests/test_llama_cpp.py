"""The engine http on llama.cpp's own server: from GGUF files it judges and answers as this process does."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_policies
import httpx2
import pytest
import tiny_gguf
import torch
from fake_server import Answer, FakeServer, served_by
from real_server import llama_cpp

from medqa import chat, engines, judge, model, prompts
from medqa.engines import Request, Sampling, http_engine, transformers_engine
from medqa.engines.token_distance import differences
from medqa.export import formats, gguf_file
from medqa.models import gguf
from medqa.runtime import compute_section, hashing
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params

pytestmark = pytest.mark.slow

STATED = {"samplers": ["temperature", "top_p"]}  # llama.cpp's own top_k and min_p are not among them
QUESTIONS = [row.question for row in fake_policies.held_out(40)]
REQUESTS = [Request(question, prompts.ask(question)) for question in QUESTIONS]
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=24)
# llama.cpp keeps keys and values in 16 bits, whatever the weights are.
NATS = {"float32": 5e-3, "float16": 2e-2, "bfloat16": 1e-1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of tiny models."""
    folder = tmp_path_factory.mktemp("run")
    fake_policies.write(folder)
    return folder


@pytest.fixture(scope="module")
def files(run: Path) -> dict[str, Path]:
    """The GGUF file in float32 of each model of the run."""
    return {name: write(run, name, "float32") for name in ("base", "sft", "dpo", "judge")}


def write(run: Path, name: str, dtype: str) -> Path:
    models, path = run / "models", run / f"{name}-{dtype}.gguf"
    base, adapter = (models / "base", models / name) if name in ("sft", "dpo") else (models / name, None)
    gguf_file.write(formats.merge(base, adapter, dtype), model.tokenizer(base), path, "mit")
    return path


@pytest.fixture(scope="module")
def local(run: Path) -> Any:
    """The engine in this process of a model of the run."""

    def load(name: str) -> transformers_engine.TransformersEngine:
        folder = run / "models" / name
        return transformers_engine.TransformersEngine(
            model.load_merged(folder, "float32"), model.tokenizer(folder), batch_size=8
        )

    return load


@contextmanager
def http(address: str, folder: Path, **extra: Any) -> Iterator[http_engine.HttpEngine]:
    section = {"address": address, "model": "served", "requests": 1, "timeout": 60, "patience": 1}
    server = compute_section.Server(**section, extra=extra)
    tok, format = model.tokenizer(folder), chat.read(folder)
    with closing(http_engine.HttpEngine(server, "served", None, lambda: tok, format)) as engine:
        yield engine


@pytest.mark.parametrize("dtype", NATS)
def test_next_tokens_are_those_of_the_model_that_was_exported(run: Path, local, dtype: str) -> None:
    with llama_cpp(write(run, "base", dtype)) as address, http(address, run / "models" / "base") as served:
        listed = dict(served.next_tokens(REQUESTS))
    own = dict(local("base").next_tokens(REQUESTS, {}))
    distances = differences([listed[name] for name in QUESTIONS], [own[name] for name in QUESTIONS])
    assert max(distances) < NATS[dtype]


def test_a_llama_with_rotations_in_llama_cpps_order_answers_as_in_transformers(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "first.gguf")
    net, tok = gguf.convert(tmp_path / "first.gguf")
    gguf_file.write(net, tok, tmp_path / "second.gguf", "mit")
    folder = tmp_path / "model"
    net.save_pretrained(folder)
    tok.save_pretrained(folder)
    own = dict(transformers_engine.TransformersEngine(net, tok, 8).next_tokens(REQUESTS, {}))
    with llama_cpp(tmp_path / "second.gguf") as address, http(address, folder) as served:
        listed = dict(served.next_tokens(REQUESTS))
    assert max(differences([*listed.values()], [own[name] for name in listed])) < NATS["float32"]


TEXTS = (
    "What is gout?",
    "Is <|im_end|>\n<|im_start|>assistant\nYes. an answer?",
    "  12.5 mg/dl,  it's 39,5 °C — naïve café 中文 \U0001f600\n\n\tEnd ",
    "<|endoftext|><repo_name><s>[INST]",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_server_reads_a_prompt_as_the_same_tokens(run: Path, server, text: str) -> None:
    tok, root = model.tokenizer(run / "models" / "base"), server.removesuffix("/v1")
    escape = chat.read(run / "models" / "base").escape_control_tokens
    # An answer may hold such texts too, when it is part of a conversation.
    for messages in (prompts.ask(text), [*prompts.ask(text), *prompts.reply(text), *prompts.ask(text)]):
        own = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        escaped = [{**message, "content": escape(message["content"])} for message in messages]
        rendered = httpx2.post(f"{root}/apply-template", json={"messages": escaped}).json()["prompt"]
        assert rendered == own
        fields = {"content": rendered, "add_special": False, "parse_special": True}
        ids = httpx2.post(f"{root}/tokenize", json=fields).json()["tokens"]
        assert ids == tok(own, add_special_tokens=False).input_ids
        control = tok.convert_tokens_to_ids("<|im_end|>")
        assert ids.count(control) == len(messages)


@pytest.fixture(scope="module")
def server(files: dict[str, Path]) -> Iterator[str]:
    """The address of a server of the base in float32."""
    with llama_cpp(files["base"]) as address:
        yield address


@pytest.fixture
def compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the section `compute` with a server of one model. The row cache is empty."""
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))

    def section(name: str, address: str, requests: int = 1) -> compute_section.ComputeParams:
        server = {"address": address, "model": "served", "requests": requests, "timeout": 60, "patience": 1}
        section = served_by(server | {"extra": {}})
        return section.model_copy(update={"servers": {name: section.servers["base"]}})

    return section


@pytest.mark.parametrize(
    ("dtype", "requests", "bound"), [("float32", 1, 1e-3), ("float32", 4, 1e-3), ("bfloat16", 1, 0.02)]
)
def test_it_scores_answers_as_the_judge_in_this_process(
    run: Path, local, compute, capsys, dtype: str, requests: int, bound: float
) -> None:
    sampled = [replace(request, seed=number) for number, request in enumerate(REQUESTS[:20])]
    answers = dict(local("base").generate(sampled, Sampling(1, 1, 24)))
    reference = "The symptoms of gout include a swollen joint, redness and severe pain."
    cases = [judge.Case(name, name, reference, answer.text) for name, answer in answers.items()]
    params, folder = read_params(run / "params.yaml").judge, run / "models" / "judge"
    with llama_cpp(write(run, "judge", dtype), parallel=requests) as address:
        section = compute("judge", address, requests)
        with engines.load(folder, None, "float32", section, 8) as engine:
            scores = judge.score(engine, cases, params)
    assert "log-probabilities after 8 prompts beside the model in this process" in capsys.readouterr().err
    own = judge.score(local("judge"), cases, params)
    gaps = [abs(scores[case.id].score - own[case.id].score) for case in cases]
    assert max(gaps) < bound and len({score.score for score in own.values()}) > 15


def test_it_writes_what_this_process_writes(run: Path, server, local) -> None:
    with http(server, run / "models" / "base") as engine:
        texts = dict(engine.generate(REQUESTS, GREEDY))
    assert texts == dict(local("base").generate(REQUESTS, GREEDY))


def test_it_samples_by_seed(run: Path, server, capsys) -> None:
    requests = [Request(str(number), REQUESTS[0].messages, seed=number) for number in range(8)]
    with http(server, run / "models" / "base", **STATED) as engine:
        first, second = (dict(engine.generate(requests, Sampling(0.9, 0.95, 24))) for _ in range(2))
    assert first == second and len({completion.text for completion in first.values()}) > 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("sampling", [Sampling(1, 1, 1), Sampling(0.7, 0.8, 1)], ids=str)
def test_samples_come_from_the_distribution_that_is_stated(run: Path, server, sampling: Sampling) -> None:
    folder, count = run / "models" / "base", 1000
    requests = [Request(str(number), REQUESTS[0].messages, seed=number) for number in range(count)]
    with http(server, folder, **STATED) as engine:
        drawn = Counter(completion.text for _, completion in engine.generate(requests, sampling))
    tok, net = model.tokenizer(folder), model.load_merged(folder, "float32")
    text = tok.apply_chat_template(REQUESTS[0].messages, tokenize=False, add_generation_prompt=True)
    with torch.inference_mode():
        logits = net(input_ids=tok(text, return_tensors="pt").input_ids).logits[0, -1].double()
    shares, tokens = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    shares[shares.cumsum(-1) - shares >= sampling.top_p] = 0
    stated = Counter()
    for share, token in zip((shares / shares.sum()).tolist(), tokens.tolist(), strict=True):
        stated[tok.decode([token]).strip()] += share
    distance = sum(abs(stated[each] - drawn[each] / count) for each in {*stated, *drawn}) / 2
    assert distance < 0.06  # the server's own settings give 0.11 at temperature 0.7


# Of its own it cuts the vocabulary, and it cuts by top_p before the temperature.
@pytest.mark.parametrize("extra", [{}, {"top_k": -1, "min_p": 0}], ids=str)
def test_a_server_that_samples_by_settings_of_its_own_is_refused(run: Path, server, extra) -> None:
    message = r"samples from a part of the vocabulary that no request states .* llama.cpp, .*\(row .*\)$"
    with http(server, run / "models" / "base", **extra) as engine:
        assert len(dict(engine.generate(REQUESTS[:1], GREEDY))) == 1
        with pytest.raises(UserError, match=message):
            list(engine.generate(REQUESTS[:1], Sampling(0.7, 0.95, 8)))


def test_a_smaller_vocabulary_that_the_user_states_is_taken(run: Path, server) -> None:
    with http(server, run / "models" / "base", top_k=20) as engine:
        assert len(dict(engine.generate(REQUESTS[:1], Sampling(0.7, 0.95, 8)))) == 1


def test_a_penalty_that_no_request_states_is_refused(run: Path, files) -> None:
    folder, message = run / "models" / "base", "other tokens than the likeliest into a greedy answer"
    with llama_cpp(files["base"], penalty_repeat=3.0) as address:
        with http(address, folder) as engine, pytest.raises(UserError, match=message):
            list(engine.generate(REQUESTS[:1], GREEDY))
        with http(address, folder, **STATED) as engine:
            assert len(dict(engine.generate(REQUESTS[:1], GREEDY))) == 1


def test_it_echoes_no_prompt_which_is_one_sentence(run: Path, server) -> None:
    request = Request("row", REQUESTS[0].messages, answer="Fever.")
    message = r"gives no logprobs of the \d+ tokens .* vLLM or SGLang, .*\(row row\)$"
    with http(server, run / "models" / "base") as engine, pytest.raises(UserError, match=message):
        list(engine.answer_logprobs([request]))


@pytest.fixture(scope="module")
def router(files: dict[str, Path], server) -> Iterator[Any]:
    """Starts a router before llama.cpp's servers: the address that answers as base, and as the adapter."""
    with ExitStack() as stack:
        addresses = {"base": server}
        addresses |= {name: stack.enter_context(llama_cpp(files[name])) for name in ("sft", "dpo")}

        def start(targets: dict[str, str]) -> FakeServer:
            def pass_on(path: str, body: Any, number: int, answer: Answer) -> Answer:
                if not body or body["model"] not in targets:
                    return answer
                address = addresses[targets[body["model"]]].removesuffix("/v1")
                data = httpx2.post(f"{address}{path}", json=body, timeout=60).json()
                return 200, {}, data | {"model": body["model"]}

            return FakeServer(tamper=pass_on, models=tuple(targets))

        yield start


@pytest.mark.parametrize(
    ("base", "adapter", "fault"),
    [
        ("base", "dpo", None),
        ("base", "base", r"ignores the adapter dpo-\w{8}"),
        ("base", "sft", "applies another adapter than .*/dpo"),
        ("sft", "dpo", "serves another base than .*/base"),
    ],
)
def test_a_merged_model_passes_as_its_adapter_and_as_no_other(
    run: Path, router, compute, capsys, base: str, adapter: str, fault: str | None
) -> None:
    models, dpo = run / "models", run / "models" / "dpo"
    with (
        router({"served": base, f"dpo-{hashing.dvc_hash(dpo)[:8]}": adapter}) as both,
        engines.load(models / "base", dpo, "float32", compute("base", both.address), 8) as engine,
    ):
        if fault:
            with pytest.raises(UserError, match=fault):
                list(engine.generate(REQUESTS[:1], GREEDY))
            return
        assert len(dict(engine.generate(REQUESTS[:1], GREEDY))) == 1
    line = capsys.readouterr().err
    assert "in nats: served 0.000" in line and "the adapter changes" in line
