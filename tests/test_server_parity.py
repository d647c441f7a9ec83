"""Before a row goes to a server, its base and adapter are compared with the models in this process."""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_policies import write_adapter
from fake_server import Answer, FakeServer, served_by
from transformers import AutoTokenizer

from medqa import chat, engines, model
from medqa.engines import Request, Sampling, memory, server_parity
from medqa.engines.base import NextTokens
from medqa.engines.token_distance import differences
from medqa.runtime import hashing
from medqa.runtime.errors import UserError

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=4)
# The log-probabilities of an answer's likeliest first tokens, by its prompt.
Tokens = dict[str, dict[str, float]]


def tokens(net: Any, tok: Any) -> Tokens:
    """What a server of a model lists: from the model alone, without any engine."""
    result = {}
    for request in server_parity.REQUESTS:
        text = tok.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
        with torch.inference_mode():
            logits = net(input_ids=tok(text, return_tensors="pt").input_ids).logits[0, -1]
        top = logits.float().log_softmax(-1).topk(20)
        texts = [tok.decode([token]) for token in top.indices.tolist()]
        result[request.messages[0]["content"]] = dict(zip(texts, top.values.tolist(), strict=True))
    return result


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Path:
    return tiny_base


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("sft", "dpo")):
        write_adapter(base, folder / name, seed)
    return {"sft": folder / "sft", "dpo": folder / "dpo"}


@pytest.fixture(scope="module")
def served(base: Path, adapters: dict[str, Path]) -> dict[str, Tokens]:
    """The tokens of base and adapters in float32, in bfloat16 as vLLM computes them, and of another base."""
    tok, result = model.tokenizer(base), {}
    for name, adapter in (("base", None), *adapters.items()):
        result[name] = tokens(model.load(base, "float32", adapter), tok)
        # The adapter beside the weights, and in their dtype.
        result[f"{name} in bfloat16"] = tokens(model.load(base, "bfloat16", adapter).bfloat16(), tok)
    other = model.load_merged(base, "float32")
    with torch.no_grad():
        for name, weight in other.named_parameters():
            weight.mul_(1.5 if "norm" in name else 1)
    result["another base"] = tokens(other, tok)
    result["spaced"] = {
        prompt: {f" {text}\n": logprob for text, logprob in listed.items()}
        | {"\ufffd": -1.0, "bytes:x": -1.0}
        for prompt, listed in result["base"].items()
    }
    result["none"] = {prompt: {} for prompt in result["base"]}
    return result


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The row cache, so that the references are computed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ask(
    base: Path, adapters: dict[str, Path], served: dict[str, Tokens], cache: Path, monkeypatch, request
) -> Any:
    """Asks a server for one row, and returns the prompts that it was asked by model.

    What the server lists of base and adapter are names in `served`; of several, each in turn.
    """
    monkeypatch.setenv("MEDQA_CACHE", str(cache))
    question = f"Is this the row of {request.node.name}?"
    requests = [Request("row", [{"role": "user", "content": question}])]
    adapter = f"sft-{hashing.dvc_hash(adapters['sft'])[:8]}"

    def run(
        base_tokens: str, adapter_tokens: str = "", base: Path = base, **extra: Any
    ) -> list[tuple[str, str]]:
        names, turns = {"served": base_tokens, adapter: adapter_tokens}, Counter[tuple[str, str]]()

        def answer(path: str, body: Any, number: int, answer: Answer) -> Answer:
            if body and body.get("logprobs"):
                prompt, several = body["messages"][0]["content"], names[body["model"]].split(" or ")
                listed = served[several[turns[body["model"], prompt] % len(several)]][prompt]
                turns[body["model"], prompt] += 1
                top = [{"token": text, "logprob": logprob} for text, logprob in listed.items()]
                answer[2]["choices"][0]["logprobs"] = {"content": [{"top_logprobs": top}]} if top else None
            return answer

        with FakeServer(tamper=answer, models=("served", adapter)) as server:
            section = {"address": server.address, "model": "served", "requests": 4, "timeout": 30}
            section |= {"patience": 1, "extra": extra}
            compute = served_by(section)
            folder = adapters["sft"] if adapter_tokens else None
            engine = engines.load(base, folder, "float32", compute, 8)
            try:
                assert len(dict(engine.generate(requests, GREEDY))) == 1
            finally:
                if engine.engine:
                    engine.engine.close()
                rows = [(body["model"], body["messages"][0]["content"]) for body in server.rows()]
                run.rows = [prompt for _, prompt in rows].count(question)
        return rows

    return run


SAME = [("base", ""), ("base in bfloat16", ""), ("spaced", ""), ("base", "sft")]
SAME += [("base in bfloat16", "sft in bfloat16"), ("base in bfloat16 or base", "sft or sft in bfloat16")]


@pytest.mark.parametrize(("base_tokens", "adapter_tokens"), SAME, ids=str)
def test_an_honest_server_passes_with_one_line(ask, capsys, base_tokens: str, adapter_tokens: str) -> None:
    rows = ask(base_tokens, adapter_tokens)
    count = 2 * len(server_parity.REQUESTS)
    assert [*Counter(name for name, _ in rows).values()] == (
        [count, count + 1] if adapter_tokens else [count + 1]
    )
    assert ask.rows == 1 and rows[-1][1].startswith("Is this the row")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("http: ")]
    assert "log-probabilities after 8 prompts beside the model in this process, in nats: served 0" in line
    assert ("the adapter changes" in line) == bool(adapter_tokens)


FAULTS = {
    "another base": ("another base", "", "serves another base than .*/base: .*, or set compute.engine to"),
    "another base with the adapter": ("another base", "sft", "serves another base than"),
    "ignored adapter": (
        "base",
        "base",
        r"ignores the adapter sft-\w{8}: its log-probabilities are 0.000 nats from",
    ),
    "ignored in 16 bits": ("base in bfloat16", "base in bfloat16", "ignores the adapter"),
    "another adapter": (
        "base",
        "dpo",
        r"applies another adapter than .*/sft: .* sft-\w{8} are .* load .*/sft",
    ),
    "another in 16 bits": ("base in bfloat16", "dpo in bfloat16", "applies another adapter than"),
    "router over two bases": ("base or another base", "", "the same prompt differently each time: .* served"),
    "router, one without it": ("base", "sft or base", r"differently each time: .* sft-\w{8} are"),
    "router in 16 bits": ("base in bfloat16", "sft in bfloat16 or dpo in bfloat16", "differently each time"),
}


@pytest.mark.parametrize(("base_tokens", "adapter_tokens", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_before_any_row_is_sent(
    ask, base_tokens: str, adapter_tokens: str, message: str
) -> None:
    with pytest.raises(UserError, match=f"^http://127.0.0.1:.*{message}") as raised:
        ask(base_tokens, adapter_tokens)
    assert ask.rows == 0 and "\n" not in str(raised.value)


@pytest.mark.parametrize("adapter_tokens", ["", "none"])
def test_a_server_without_logprobs_answers_and_is_reported(ask, capsys, adapter_tokens: str) -> None:
    ask("none", adapter_tokens)
    assert ask.rows == 1
    error = capsys.readouterr().err
    assert "answers as the model in this process could not be checked: http" in error
    assert "gives no logprobs" in error and "log-probabilities after" not in error


def test_a_model_that_does_not_fit_into_memory_is_reported(ask, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path))
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    ask("base", "sft")
    assert ask.rows == 1
    assert (
        "base does not fit into memory here (it needs about 0.0 GB, and 0.0 GB are free)"
        in capsys.readouterr().err
    )


DAY = "{{ strftime_now('%d %B %Y') }} {{ style }}"


def test_the_prompts_of_this_process_are_rendered_as_the_server_does(
    ask, base: Path, served: dict[str, Tokens], capsys, tmp_path: Path
) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = folder / "chat_template.jinja"
    template.write_text(DAY + template.read_text())
    chat.write(folder, chat.detect(folder))
    # transformers itself renders on today's date, as servers do.
    tok = AutoTokenizer.from_pretrained(folder)
    tok.apply_chat_template = partial(tok.apply_chat_template, style="short")
    served["dated"] = tokens(model.load(folder, "float32"), tok)
    for style, equal in (("short", True), ("long", False)):
        ask("dated", base=folder, chat_template_kwargs={"style": style})
        assert ("in nats: served 0.000 (" in capsys.readouterr().err) == equal


def test_the_model_is_loaded_once_for_all_stages(ask, monkeypatch) -> None:
    ask("base", "sft")
    monkeypatch.setattr(model, "load", None)
    with pytest.raises(UserError, match="serves another base"):
        ask("another base")


def row(**logprobs: float) -> NextTokens:
    return NextTokens(tuple(logprobs), tuple(logprobs.values()))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (row(a=-1, b=-2), [0, 0]),
        (row(a=-1.5, b=-1.75), [0.5, 0.25]),
        (row(c=-2.5), [0.5]),  # the reference has it at -3 or lower
        (row(c=-4), [0]),
        (NextTokens((" a", "a", "", "\ufffd"), (-1, -5, -1, -1)), [0]),
    ],
)
def test_the_distance_of_tokens_that_a_reference_lists_or_not(
    tokens: NextTokens, expected: list[float]
) -> None:
    assert differences([tokens], [row(a=-1, b=-2, z=-3)]) == pytest.approx(expected)


def test_the_memory_of_a_quantised_model_is_that_of_its_plain_layers(base: Path) -> None:
    size = (base / "model.safetensors").stat().st_size
    assert memory.needed_bytes(base, "bfloat16") == 4 * size
    assert memory.needed_bytes(base, "float32") == 8 * size
    assert (memory.free_bytes() or 1 << 40) > 8 * size
