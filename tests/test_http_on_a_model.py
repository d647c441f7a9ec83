"""The engine http beside the engine in the process, on one model: through a server as vLLM, and transformers
serve.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_server import FakeServer
from transformers.utils.import_utils import is_serve_available

from medqa import engines, model, prompts
from medqa.engines import Sampling, http_engine, pool, servers, transformers_engine
from medqa.runtime import sections
from medqa.runtime.errors import UserError

ASKED = [prompts.ask(f"What are the symptoms of {name}?") for name in ("gout", "asthma", "measles", "scurvy")]


@pytest.fixture(scope="module")
def loaded(tiny_base: Path) -> tuple[Any, Any]:
    return model.load(tiny_base, "float32"), model.tokenizer(tiny_base)


def http(address: str, name: str, tok: Any) -> http_engine.HttpEngine:
    given = {"addresses": [address], "model": name, "requests": 1, "timeout": 60, "patience": 1, "extra": {}}
    return http_engine.HttpEngine(pool.Pool("base", sections.Server(**given)), name, None, lambda: tok)


def test_scores_and_likelihoods_are_those_of_the_engine_in_the_process(loaded) -> None:
    net, tok = loaded

    def after(ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return net(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def tops(messages: Any) -> dict[str, float]:
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        held = after(tok(text).input_ids)[-1].exp()
        # A model that knows nothing lists no label among twenty tokens: the labels are given what others
        # have.
        for label in prompts.LABELS:
            held[tok.encode(label)[0]] *= 50
        return {tok.decode([place]): float(share) for place, share in enumerate(held / held.sum())}

    def reads(ids: list[int]) -> list[float]:
        return [0.0, *after(ids)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]

    plain = transformers_engine.TransformersEngine(net, tok, batch_size=2)
    answers = ["fever and a long cough", "gout", "", "a rash"]
    with FakeServer(tops=tops, reads=reads) as server:
        served = http(server.address, "served", tok)
        for mine, other in zip(
            served.answer_logprobs(ASKED, answers), plain.answer_logprobs(ASKED, answers), strict=True
        ):
            assert mine.tokens == other.tokens and mine.nats == pytest.approx(other.nats, abs=1e-3)
        pairs = zip(
            served.label_probabilities(ASKED, prompts.LABELS),
            plain.label_probabilities(ASKED, prompts.LABELS),
            strict=True,
        )
        for mine, other in pairs:
            assert mine.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.fixture(scope="module")
def serving(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of `transformers serve`, and the model that it serves, which samples as Qwen's do."""
    if not is_serve_available():
        pytest.skip("transformers serve needs fastapi, openai and uvicorn: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("served") / "base"
    shutil.copytree(tiny_base, folder)
    sampling = json.loads((folder / "generation_config.json").read_text()) | {"do_sample": True, "top_k": 0}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    told = folder.with_name("log").open("wb")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder.parent)}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"],
        stdout=told,
        stderr=told,
        env=environment,
    )
    try:
        client, end = servers.Client(f"http://127.0.0.1:{port}", 5), time.monotonic() + 90
        while True:
            try:
                client.ask("/health")
                break
            except servers.Unreached:
                assert process.poll() is None and time.monotonic() < end, folder.with_name("log").read_text()[
                    -2000:
                ]
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.terminate()
        process.wait(20)


def test_transformers_serve_writes_what_the_engine_in_the_process_writes(serving, loaded) -> None:
    address, folder = serving
    served, greedy = (
        http(address, str(folder), loaded[1]),
        Sampling(temperature=0, top_p=1, max_new_tokens=12),
    )
    expected = transformers_engine.TransformersEngine(*loaded, batch_size=1).generate(
        ASKED, greedy, [0] * len(ASKED)
    )
    assert served.generate(ASKED, greedy, [0] * len(ASKED)) == expected


def test_transformers_serve_samples_by_seed(serving, loaded, capsys) -> None:
    address, folder = serving
    served, warm = (
        http(address, str(folder), loaded[1]),
        Sampling(temperature=1.2, top_p=0.95, max_new_tokens=12),
    )
    seeds = [engines.sample_seed(0, "q", sample) for sample in range(4)]
    first = served.generate([ASKED[0]] * 4, warm, seeds)
    assert (
        served.generate([ASKED[0]] * 4, warm, seeds) == first and len({answer.text for answer in first}) > 1
    )
    assert "same seed" not in capsys.readouterr().err


def test_transformers_serve_ignores_logprobs_which_is_refused(serving, loaded) -> None:
    address, folder = serving
    served = http(address, str(folder), loaded[1])
    with pytest.raises(
        UserError, match=f"{address} gives no logprobs, from which labels are read; serve the model "
    ):
        served.label_probabilities(ASKED, prompts.LABELS)
    with pytest.raises(
        UserError, match="a server has to echo token ids here: serve the model with vLLM or SGLang"
    ):
        served.answer_logprobs(ASKED[:1], ["fever"])
    with pytest.raises(UserError, match="HTTP 400: .*Server is pinned to"):
        http(address, "another", loaded[1]).generate(
            ASKED[:1], Sampling(temperature=0, top_p=1, max_new_tokens=2), [0]
        )
