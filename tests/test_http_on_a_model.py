"""The engines http and transformers on one model: through a fake server and through `transformers serve`."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import real_server
import torch
from fake_server import FakeServer, served_by

from medqa import chat, engines, model, prompts
from medqa.engines import Request, Sampling, http_engine, transformers_engine
from medqa.runtime import compute_section
from medqa.runtime.errors import UserError

pytestmark = pytest.mark.slow

ANSWERS = {"gout": "fever and a long cough", "asthma": "gout", "measles": "", "scurvy": "a rash"}
REQUESTS = [
    Request(name, prompts.ask(f"What are the symptoms of {name}?"), answer=answer)
    for name, answer in ANSWERS.items()
]
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=12)


@pytest.fixture(scope="module")
def loaded(tiny_base: Path) -> tuple[Any, Any]:
    return model.load(tiny_base, "float32"), model.tokenizer(tiny_base)


@contextmanager
def http(address: str, name: str, tok: Any) -> Iterator[http_engine.HttpEngine]:
    section = {"address": address, "model": name, "requests": 1, "timeout": 60, "patience": 1, "extra": {}}
    server = compute_section.Server(**section)
    with closing(http_engine.HttpEngine(server, name, None, lambda: tok, chat.ChatFormat())) as engine:
        yield engine


def test_scores_and_likelihoods_are_those_of_the_engine_in_the_process(loaded) -> None:
    net, tok = loaded

    def predict(ids: list[int]) -> torch.Tensor:
        """The log-probabilities of the next token after each one: len(ids) x vocabulary."""
        with torch.inference_mode():
            return net(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def top_tokens(messages: Any) -> dict[str, float]:
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        shares = predict(tok(text).input_ids)[-1].exp()
        # An untrained model lists no label among twenty tokens: labels get the shares of other tokens.
        for label in prompts.LABELS:
            shares[tok.encode(label)[0]] *= 50
        return {tok.decode([token]): float(share) for token, share in enumerate(shares / shares.sum())}

    def read(ids: list[int]) -> list[float]:
        return [0.0, *predict(ids)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]

    local = transformers_engine.TransformersEngine(net, tok, batch_size=2)
    with (
        FakeServer(top_tokens=top_tokens, read=read) as server,
        http(server.address, "served", tok) as served,
    ):
        likelihoods = dict(served.answer_logprobs(REQUESTS))
        for id, expected in local.answer_logprobs(REQUESTS):
            assert likelihoods[id].tokens == expected.tokens
            assert likelihoods[id].nats == pytest.approx(expected.nats, abs=1e-3)
        labels = dict(served.label_probabilities(REQUESTS, prompts.LABELS))
        for id, expected in local.label_probabilities(REQUESTS, prompts.LABELS):
            assert labels[id].probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.fixture(scope="module")
def serving(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of `transformers serve`, and the model that it serves, which samples as Qwen's do."""
    folder = tmp_path_factory.mktemp("served") / "base"
    shutil.copytree(tiny_base, folder)
    sampling = json.loads((folder / "generation_config.json").read_text()) | {"do_sample": True, "top_k": 0}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    with real_server.serving(folder) as address:
        yield address, folder


def test_transformers_serve_writes_what_the_engine_in_the_process_writes(serving, loaded) -> None:
    address, folder = serving
    local = transformers_engine.TransformersEngine(*loaded, batch_size=1)
    with http(address, str(folder), loaded[1]) as served:
        assert dict(served.generate(REQUESTS, GREEDY)) == dict(local.generate(REQUESTS, GREEDY))


def test_transformers_serve_is_reported_as_not_compared_and_answers(
    serving, monkeypatch, tmp_path: Path, capsys
) -> None:
    address, folder = serving
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path))
    section = {"address": address, "model": str(folder), "requests": 1, "timeout": 60, "patience": 1}
    compute = served_by(section | {"extra": {}})
    with engines.load(folder, None, "float32", compute, 1) as served:
        assert len(dict(served.generate(REQUESTS[:1], GREEDY))) == 1
    assert f"could not be checked: {address} gives no logprobs" in capsys.readouterr().err


def test_transformers_serve_samples_by_seed(serving, loaded, capsys) -> None:
    address, folder = serving
    sampling = Sampling(temperature=1.2, top_p=0.95, max_new_tokens=12)
    requests = [
        Request(str(sample), REQUESTS[0].messages, engines.sample_seed(0, "q", sample)) for sample in range(4)
    ]
    with http(address, str(folder), loaded[1]) as served:
        first, second = (dict(served.generate(requests, sampling)) for _ in range(2))
    assert first == second and len({completion.text for completion in first.values()}) > 1
    assert "same seed" not in capsys.readouterr().err


def test_transformers_serve_ignores_logprobs_which_is_refused(serving, loaded) -> None:
    address, folder = serving
    with http(address, str(folder), loaded[1]) as served:
        with pytest.raises(
            UserError, match=f"{address} gives no logprobs, from which labels are read; serve"
        ):
            list(served.label_probabilities(REQUESTS, prompts.LABELS))
        ((_, failure),) = served.answer_logprobs(REQUESTS[:1])
        assert "a server has to echo token ids here: serve the model with vLLM or SGLang" in failure.reason
    with http(address, "another", loaded[1]) as served:
        ((_, failure),) = served.generate(REQUESTS[:1], GREEDY)
        assert re.search("HTTP 400: .*Server is pinned to", failure.reason)
