"""The engine http: answers of servers are checked, what they leave out is refused, and no row is lost."""

import gzip
import math
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import pytest
from fake_formats import FORMATS, write
from fake_server import FILLER, Answer, FakeServer, Tamper

from medqa import chat, engines, prompts
from medqa.engines import (
    Completion,
    Failure,
    Labels,
    Likelihood,
    Request,
    Sampling,
    http_engine,
    http_loading,
    server_parity,
    server_sampling,
    thinking,
)
from medqa.runtime import compute_section, sections
from medqa.runtime.errors import UserError

WARM = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=8)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The seconds between tries, which are a hundred times shorter here."""
    sleep, delays = anyio.sleep, list[float]()

    async def shorter(seconds: float) -> None:
        delays.append(seconds)
        await sleep(seconds / 100)

    monkeypatch.setattr(anyio, "sleep", shorter)
    monkeypatch.setattr(server_sampling, "DRAWS", 2)
    # The folders of these tests hold no model to compare a server with.
    monkeypatch.setattr(server_parity, "check", lambda *_: "not compared")
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv(compute_section.KEY, raising=False)
    return delays


def compute(address: str, cached: bool = False, failed: int = 0, **changes: Any) -> sections.ComputeParams:
    server = {"address": address, "model": "served", "requests": 4, "timeout": 5, "extra": {}}
    server |= {"patience": 0.3} | changes
    batches = {
        "generate_batch_size": 1,
        "judge_batch_size": 1,
        "cluster": None,
        "processes": 1,
        "process_cores": None,
        "process_gpus": None,
        "checkpoint_minutes": 1,
        "tracking": None,
    }
    return sections.ComputeParams(
        engine="http", servers={"base": server}, row_cache=cached, max_failed_rows=failed, **batches
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    (folder / "pin.json").write_text("{}")
    chat.write(folder, chat.ChatFormat())
    return folder


@pytest.fixture
def engine(base: Path) -> Iterator[Any]:
    """Loads the engine of a server."""
    loaded = []

    def load(server: FakeServer, adapter: Path | None = None, **changes: Any) -> Any:
        loaded.append(engines.load(base, adapter, "float32", compute(server.address, **changes), 1))
        return loaded[-1]

    yield load
    # The engines themselves, without the garbage collection that frees a model.
    for policy in loaded:
        if policy.engine:
            policy.engine.close()


def questions(count: int) -> list[Request]:
    return [Request(f"q{index}", prompts.ask(f"q{index}"), seed=index) for index in range(count)]


def generate(engine: Any, count: int = 3, sampling: Sampling = WARM) -> list[Completion | Failure]:
    results = dict(engine.generate(questions(count), sampling))
    return [results[request.id] for request in questions(count)]


def judge(engine: Any, count: int = 2) -> list[Labels | Failure]:
    return [result for _, result in sorted(engine.label_probabilities(questions(count), prompts.LABELS))]


def changing(change: Any, question: str | None = None) -> Tamper:
    """A server that changes its answer to every question, or to this one."""

    def tamper(path: str, body: Any, number: int, answer: Answer) -> Answer:
        concerned = question is None or (body and body["messages"][-1]["content"] == question)
        return (200, {}, change(answer[2])) if concerned else answer

    return tamper


# Changes of an answer: in its fields, in those of its choice, in the choice's message, and of all of it.
def data(**fields: Any) -> Any:
    return lambda answer: answer | fields


def choice(**fields: Any) -> Any:
    return lambda answer: answer | {"choices": [answer["choices"][0] | fields]}


def message(content: Any = None, finish_reason: str = "stop", **fields: Any) -> Any:
    return choice(message={"content": content, **fields}, finish_reason=finish_reason)


def whole(content: Any) -> Any:
    return lambda answer: content


def test_each_row_is_one_request_with_its_own_seed(engine) -> None:
    def late(path: str, body: Any, number: int, answer: Answer) -> Answer:
        time.sleep(0.01 * (number % 5))
        return answer

    with FakeServer(tamper=late) as server:
        results = dict(engine(server).generate(questions(40), WARM))
        assert results == {f"q{row}": Completion(f"q{row} {row}", "stop", 2) for row in range(40)}
        assert list(results) != sorted(results, key=lambda id: int(id[1:])) and 1 < server.most_in_flight <= 4
        body = server.rows()[-1]
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.95, 8) and "n" not in body


def test_a_greedy_answer_needs_no_seed_and_ends_at_the_limit(engine) -> None:
    with FakeServer(complete=lambda messages, seed: "a b c d e f g h i j") as server:
        answers = generate(engine(server, extra={"top_k": -1}), 1, GREEDY)
        assert answers == [Completion("a b c d e f g h", "length", 8)]
        (body,) = server.rows()
        assert (body["temperature"], body.get("seed"), body["top_k"]) == (0, None, -1)


def test_label_probabilities_are_shares_of_the_mass_of_the_labels(engine) -> None:
    with FakeServer() as server:
        for labels in judge(engine(server)):
            assert labels.probabilities == pytest.approx((0, 0, 2 / 3, 1 / 3, 0))
            assert labels.mass == pytest.approx(0.9)
        assert all(
            body["max_tokens"] == 1 and body["logprobs"] and body["top_logprobs"] == 20
            for body in server.rows()
        )
        server.top_tokens = lambda messages: FILLER | {"the": 0.9}
        # No label is listed: no mass, which the judge calls unscored.
        assert judge(engine(server))[0] == Labels((0.2,) * 5, 0.0)


def test_labels_are_read_from_another_draw_where_the_first_one_is_no_text(engine) -> None:
    def ends(path: str, body: Any, number: int, answer: Answer) -> Answer:
        ended = body and body.get("seed") in (0, 1, *range(8 * (body["messages"][0]["content"] == "q1")))
        texts = {"content": ("", "\ufffd")[number % 2]}
        end = choice(message=texts, finish_reason="stop", logprobs=None)
        return (200, {}, end(answer[2])) if ended else answer

    with FakeServer(tamper=ends) as server:
        first, second = judge(engine(server, failed=1))
        assert isinstance(first, Labels) and first.probabilities[2] == pytest.approx(2 / 3)
        assert (
            isinstance(second, Failure)
            and "no text and no logprobs in one token, with any of 8 seeds" in second.reason
        )


def test_a_label_that_is_not_listed_counts_as_nothing_and_mass_is_never_overstated(engine) -> None:
    truth = {"1": 1e-7, "2": 2e-7, "3": 0.55, "4": 0.4, "5": 3e-7}
    with FakeServer(top_tokens=lambda messages: truth | FILLER) as server:
        labels = judge(engine(server))[0]
    mass = sum(truth.values())
    assert labels.mass < mass and labels.mass == pytest.approx(mass, abs=1e-5)
    assert labels.probabilities == pytest.approx([share / mass for share in truth.values()], abs=1e-5)


def tokens(count: Any) -> Any:
    return data(usage={"completion_tokens": count})


def top(*pairs: Any) -> Any:
    """Top log-probabilities; a single one is repeated."""
    entries = [{"token": token, "logprob": logprob} for token, logprob in pairs]
    return choice(logprobs={"content": [{"top_logprobs": entries * 20 if len(entries) == 1 else entries}]})


def echo(*logprobs: Any) -> Any:
    return choice(logprobs={"token_logprobs": [*logprobs]})


# What a server may do wrong in an answer to each operation, and the error.
NO_LOGARITHM = "no logarithm of a probability"
NO_ECHO = r"gives no logprobs of the \d+ tokens that it was sent .echo., .*to transformers"
LIES = [
    ("generate", lambda answer: answer | {"choices": answer["choices"] * 2}, "gives 2 choices where 1 was"),
    ("generate", data(choices=None), "gives no choices"),
    ("generate", data(choices=[{}]), "gives choice None"),
    ("generate", choice(index=1), "gives choice 1 where choice 0 was asked for"),
    ("generate", data(model="served-dpo"), "answers for the model 'served-dpo', not for 'served'"),
    ("generate", data(model=None), "answers for the model None"),
    ("generate", message(5), "gives a choice without a text"),
    ("generate", choice(message="hello"), "gives a choice without a text"),
    ("generate", choice(finish_reason="eos"), "finish_reason 'eos'"),
    ("generate", choice(finish_reason=None), "finish_reason None"),
    ("generate", data(usage=None), "gives None for usage.completion_tokens"),
    ("generate", tokens(True), "gives True for usage"),
    ("generate", tokens(math.nan), "gives nan for usage"),
    ("generate", tokens(9), "counts 9 tokens for a text"),
    ("generate", tokens(0), "counts 0 tokens for a text"),
    ("generate", whole({"error": {"message": "CUDA error"}}), "error under HTTP 200: .*CUDA"),
    ("generate", whole(b"<html>Welcome</html>"), "no JSON object but HTTP 200: <html>Welcome</html>; "),
    ("generate", whole(b'{"model": "served", "choi'), "no JSON object but HTTP 200"),
    ("generate", whole([{}]), "no JSON object but HTTP 200"),
    ("generate", whole(b""), r"no JSON object but HTTP 200: \(nothing\)"),
    (
        "judge",
        choice(logprobs=None),
        "gives no logprobs, from which labels are read; serve the",
    ),
    ("judge", choice(logprobs={"content": []}), "gives no logprobs"),
    ("judge", choice(logprobs={"content": [{"token": "3", "logprob": 0.0}]}), "gives no logprobs"),
    ("judge", top(("3", -0.1), ("4", -3)), "lists 2 top_logprobs where 20 were asked for"),
    ("judge", top(("3", math.nan)), NO_LOGARITHM),
    ("judge", top(("3", -math.inf)), NO_LOGARITHM),
    ("judge", top(("3", 1.5)), NO_LOGARITHM),
    ("judge", top(("3", "-1")), NO_LOGARITHM),
    ("judge", top((3, -1)), "a logprob of no token"),
    ("judge", top(*[(f"{index}", -0.1) for index in range(20)]), "add up to a probability of 18.1"),
    ("judge", top(*[(f"token_id:{index}", -5) for index in range(20)]), "--return-tokens-as-token-ids"),
    ("likelihoods", choice(logprobs=None), NO_ECHO),
    ("likelihoods", echo(-1.0), NO_ECHO),
    ("likelihoods", echo(*[None] * 10), NO_LOGARITHM),
    ("likelihoods", echo(None, *[math.nan] * 9), NO_LOGARITHM),
    ("likelihoods", echo(None, *[0.5] * 9), NO_LOGARITHM),
]


@pytest.mark.parametrize(("operation", "lie", "error"), LIES, ids=[error[:30] for *_, error in LIES])
def test_a_lie_is_noticed_and_names_the_server(engine, operation: str, lie: Any, error: str) -> None:
    with FakeServer(tamper=changing(lie)) as server, pytest.raises(UserError, match=error) as raised:
        if operation == "likelihoods":
            likelihoods(server)
        elif operation == "judge":
            judge(engine(server))
        else:
            generate(engine(server), 3, GREEDY)
    assert str(raised.value).startswith(server.address) and "\n" not in str(raised.value)


# What a working server may do with one row of several, and the reason of the failure.
NO_TEXT = "gives a message without a text"
NO_ANSWERS = {
    "nothing": (message(), NO_TEXT),
    "no content": (choice(message={"role": "assistant"}), NO_TEXT),
    "refusal": (message(refusal="I cannot\nhelp."), "refuses: I cannot help."),
    "filter": (message("So", "content_filter"), "finish_reason 'content_filter', without an answer"),
    "tool": (message(None, "tool_calls"), "finish_reason 'tool_calls', without an answer"),
    "tool without its finish": (message(tool_calls=[{"id": "1"}]), NO_TEXT),
    "image": (message([{"type": "image_url", "image_url": {}}]), NO_TEXT),
    "no parts": (message([]), NO_TEXT),
    "no choices": (data(choices=[]), "gives 0 choices where 1 was asked for"),
    "given up": (message("So", "error"), "finish_reason 'error', without an answer"),
}


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("change", "reason"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_row_without_an_answer_is_one_failure(
    engine, capsys, change: Any, reason: str, sampling: Sampling
) -> None:
    with FakeServer(tamper=changing(change, "q1")) as server:
        answers = generate(engine(server, failed=1), 4, sampling)
        assert [isinstance(answer, Failure) for answer in answers] == [False, True, False, False]
        assert re.search(f"q1: {server.address} .*{reason}; .* .1 of at most 1", capsys.readouterr().err)
        with pytest.raises(UserError, match=f"q1: .*{reason}"):
            generate(engine(server), 4, sampling)
        server.tamper = changing(NO_ANSWERS["filter"][0], "q1")
        assert [isinstance(labels, Failure) for labels in judge(engine(server, failed=1))] == [False, True]


def test_thoughts_that_a_server_hides_prove_nothing_about_its_seeds(engine, capsys) -> None:
    with FakeServer(tamper=changing(message(None, "length"))) as server:
        assert generate(engine(server), 2) == [Completion("", "length", 3)] * 2
    assert "gives no text in 24 tokens: how it samples is not checked" in capsys.readouterr().err


PARTS = [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is C."}]
THOUGHTS = {"type": "thinking", "thinking": [{"type": "text", "text": "A?"}]}
SEPARATED = "<think>\nA?\n</think>\n\nC"
# Messages that hold an answer in another form, and its text in our form.
UNUSUAL = {
    "parts": (message(PARTS), "The answer is C.", "stop"),
    "thoughts in parts": (message([THOUGHTS, *PARTS]), "<think>\nA?\n</think>\n\nThe answer is C.", "stop"),
    "thoughts apart": (message("C", reasoning_content="A?"), SEPARATED, "stop"),
    "of newer servers": (message("C", reasoning="A?", reasoning_content=None), SEPARATED, "stop"),
    "cut off within": (message(None, "length", reasoning_content="A?"), "<think>\nA?\n</think>", "length"),
    "cut off, none kept": (message(None, "length"), "", "length"),
    "nothing after them": (message(None, reasoning="A?"), "<think>\nA?\n</think>", "stop"),
    "no parser": (message("<think>A?</think>C"), SEPARATED, "stop"),
    "no opening tag": (message("A?</think>C"), SEPARATED, "stop"),
    "no closing tag": (message("<think>A?", "length"), "<think>\nA?\n</think>", "length"),
    "control tokens": (
        message("C<|im_end|></think>", reasoning="A?</think>"),
        "<think>\nA?< /think>\n</think>\n\nC< |im_end|>< /think>",
        "stop",
    ),
    "empty": (message(""), "", "stop"),
    "no refusal": (message("C", refusal=None, tool_calls=[]), "C", "stop"),
}


@pytest.mark.parametrize(("change", "text", "finish_reason"), UNUSUAL.values(), ids=UNUSUAL)
def test_an_answer_in_another_form_is_read(engine, change: Any, text: str, finish_reason: str) -> None:
    with FakeServer(tamper=changing(change, "q1")) as server:
        answer = generate(engine(server), 3, GREEDY)[1]
        assert (answer.text, answer.finish_reason) == (text, finish_reason)
        assert "\n</think>" not in text or thinking.split(text)[0]


@pytest.mark.parametrize(
    ("status", "key", "message"),
    [
        (401, "", r"refuses with HTTP 401 \(the environment variable MEDQA_API_KEY has to hold a key"),
        (
            403,
            "s3cret",
            r"refuses with HTTP 403 \(the environment variable MEDQA_API_KEY has to hold another",
        ),
        (400, "", "q0: .* refuses with HTTP 400: .*maximum context length"),
        (422, "", r"q0: .* refuses with HTTP 422 \(a field that it does not know, perhaps of `extra`\)"),
        (307, "", "answers with no JSON object but HTTP 307"),
        (204, "", "answers with no JSON object but HTTP 204"),
    ],
)
def test_a_refused_request_is_not_repeated(engine, monkeypatch, status: int, key: str, message: str) -> None:
    monkeypatch.setenv(compute_section.KEY, key)
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "for OpenAI alone")

    def tamper(path: str, body: Any, number: int, answer: Answer) -> Answer:
        headers = {"Location": "/v1/models"} if status == 307 else {}
        return status, headers, {"error": f"maximum context length; your key was Bearer {key}"}

    with FakeServer(tamper=tamper) as server:
        with pytest.raises(UserError, match=message) as error:
            generate(engine(server, requests=1), 1)
        assert all(count == 1 for count in Counter(map(str, server.requests)).values())
        assert server.headers[0]["authorization"] == f"Bearer {key or 'none'}"
        assert not any("for OpenAI alone" in value for value in server.headers[0].values())
    assert not key or key not in str(error.value)


def test_a_model_that_is_not_served_is_named_with_those_that_are(engine) -> None:
    error = pytest.raises(UserError, match="serves no model 'served' but qwen, other; correct `model`")
    with FakeServer(models=("qwen", "other")) as server, error:
        generate(engine(server), 1, GREEDY)


@pytest.mark.parametrize(
    ("status", "retry_after", "delay"),
    [
        (429, "7", 7),
        (500, "7", 7),
        (503, "7", 7),
        (503, "date", 30),
    ],
)
def test_a_busy_server_is_asked_again(engine, delays, status: int, retry_after: str, delay: float) -> None:
    if retry_after == "date":
        retry_after = formatdate(time.time() + 30, usegmt=True)

    def tamper(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return (status, {"Retry-After": retry_after}, {"error": "busy"}) if number == 1 else answer

    with FakeServer(tamper=tamper) as server:
        assert len(generate(engine(server, requests=1, patience=5), 2, GREEDY)) == 2
    assert delays == [pytest.approx(delay, abs=5 if delay == 30 else 0)]


@pytest.mark.parametrize(("retry_after", "tries"), [("1", 5), ("600", 1)])
def test_a_server_that_stays_busy_ends_the_stage(engine, retry_after: str, tries: int) -> None:
    with FakeServer(tamper=lambda *_: (503, {"Retry-After": retry_after}, "loading")) as server:
        with pytest.raises(UserError, match="is busy with HTTP 503: .loading.; patience = 0.3 s did not"):
            generate(engine(server), 1, GREEDY)
        assert len(server.requests) == tries


def test_a_row_that_always_fails_is_named_and_the_others_are_kept(engine) -> None:
    def tamper(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return (500, {}, "boom") if body["messages"][-1]["content"] == "q7" else answer

    with FakeServer(tamper=tamper) as server:
        with pytest.raises(UserError, match="q7: http.* fails again and again with HTTP 500: .*boom"):
            generate(engine(server, cached=True, requests=1), 12, GREEDY)
        server.tamper, server.requests = (lambda *answer: answer[-1]), []
        assert len(generate(engine(server, cached=True), 12, GREEDY)) == 12 and len(server.rows()) == 5


def raw_server(*parts: bytes, pause: float = 0.05) -> tuple[str, socket.socket]:
    """A server that writes these bytes to every connection, with pauses, and then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            content = b""
            while b"\r\n\r\n{" not in content:
                content += connection.recv(1 << 16)
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", listener


OK = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "trickling body": ([OK + b"Content-Length: 100\r\n\r\n", *[b" "] * 100], "no answer within 0.2 s"),
    "trickling headers": ([OK, *[b"X: y\r\n"] * 100], "no answer within 0.2 s"),
    "nothing": ([b""], r"again and again: RemoteProtocolError..Server disconnected"),
    "half": ([OK + b"Content-Length: 100\r\n\r\n{"], r"again and again: \w+Error"),
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n"], r"again and again: RemoteProtocolError"),
    "bad gzip": (
        [OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhaha"],
        "again and again: DecodingError",
    ),
}


@pytest.mark.parametrize(("parts", "message"), BROKEN.values(), ids=BROKEN)
def test_an_answer_that_does_not_arrive_is_one_failure(base: Path, parts: list[bytes], message: str) -> None:
    address, listener = raw_server(*parts)
    start = time.monotonic()
    policy = engines.load(base, None, "float32", compute(address, timeout=0.2), 1)
    with listener, policy, pytest.raises(UserError, match=f"q0: http.* {message}"):
        generate(policy, 1, GREEDY)
    assert time.monotonic() - start < 6  # all tries of two requests: a check, and the row


def test_an_endless_answer_is_not_read_to_its_end(engine) -> None:
    bomb = gzip.compress(b" " * (65 << 20), compresslevel=1)
    error = pytest.raises(UserError, match="answers with more than 64 MB")
    with FakeServer(tamper=lambda *_: (200, {"Content-Encoding": "gzip"}, bomb)) as server, error:
        generate(engine(server), 1, GREEDY)


def test_a_server_that_restarts_loses_no_row_and_makes_none_twice(engine) -> None:
    restarted = []

    def restart() -> None:
        time.sleep(0.2)
        restarted.append(
            FakeServer(port=int(server.address.rpartition(":")[2].removesuffix("/v1"))).__enter__()
        )

    def dies(path: str, body: Any, number: int, answer: Answer) -> Answer:
        if body["messages"][0]["content"] == "q30":
            server.die()
            threading.Thread(target=restart).start()
        return answer

    with FakeServer(tamper=dies) as server:
        answers = generate(engine(server, cached=True, patience=60), 200)
        assert [answer.text for answer in answers] == [f"q{row} {row}" for row in range(200)]
    with restarted[0] as server:
        requests = Counter(body["messages"][-1]["content"] for body in server.rows())
        assert max(requests.values()) == 1 and 170 <= len(requests) <= 176
        server.requests.clear()
        assert generate(engine(server, cached=True), 200) == answers and not server.requests


def test_a_server_that_is_gone_ends_the_stage_and_answers_are_kept(engine) -> None:
    def dies(path: str, body: Any, number: int, answer: Answer) -> Answer:
        if number == 30:
            server.die()
        return answer

    with FakeServer(tamper=dies) as server, FakeServer() as fresh:
        with pytest.raises(UserError, match="cannot be reached: .*patience = 0.3 s did not .*row q") as error:
            generate(engine(server, cached=True), 300, GREEDY)
        assert str(error.value).startswith(server.address) and "\n" not in str(error.value)
        # The address is no part of a row's key.
        assert len(generate(engine(fresh, cached=True), 300, GREEDY)) == 300
        assert 270 <= len(fresh.rows()) <= 275


def test_a_seed_without_effect_is_refused(engine) -> None:
    with FakeServer(complete=lambda messages, seed: "always this") as server:
        with pytest.raises(UserError, match="gives the same text for every seed, even at temperature 1.5"):
            generate(engine(server))
        # Greedy answers and labels need none.
        assert generate(engine(server), 1, GREEDY)[0].text == "always this"


def test_notices_are_printed_once(engine, capsys) -> None:
    numbers = iter(range(99))
    with FakeServer(complete=lambda messages, seed: f"well<|im_end|> <think>{next(numbers)}") as server:
        answers = generate(engine(server), 5)
        assert all(answer.text.startswith("well< |im_end|> < think>") for answer in answers)
        notices = capsys.readouterr().err
    assert notices.count("writes control tokens into texts; they are kept as plain text") == 1
    assert notices.count(f"http: {server.address} gives another text for the same seed") == 1


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "sft"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_an_adapter_has_the_name_of_its_content_so_that_a_stale_one_is_refused(engine, adapter: Path) -> None:
    missing = r"does not serve the adapter sft-(\w{8}) \(but served\); .*--lora-modules "
    with FakeServer() as server:
        with pytest.raises(UserError, match=missing):
            generate(engine(server, adapter=adapter), 1)
        body = next(body for path, body in server.requests if path.endswith("load_lora_adapter"))
        assert body["lora_path"] == str(adapter)
        server.models.append(body["lora_name"])
        generate(engine(server, adapter=adapter), 1)
        assert server.rows()[-1]["model"] == body["lora_name"]
        (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
        with pytest.raises(UserError, match=missing.replace("served", ".*")):
            generate(engine(server, adapter=adapter), 1)


def test_a_server_that_may_load_adapters_loads_them_once(engine, adapter: Path) -> None:
    def loads(path: str, body: Any, number: int, answer: Answer) -> Answer:
        if path.endswith("load_lora_adapter"):
            server.models.append(body["lora_name"])
            return 200, {}, b"Success: LoRA adapter added successfully."
        return answer

    with FakeServer(tamper=loads) as server:
        assert len(generate(engine(server, adapter=adapter), 20)) == 20
        assert Counter(path for path, _ in server.requests)["/v1/load_lora_adapter"] == 1


def test_the_key_of_a_row_holds_what_determines_an_answer(engine, base: Path) -> None:
    with FakeServer(models=("served", "better")) as server:
        for changes, expected in (({}, 2), ({}, 0), ({"extra": {"top_k": 5}}, 2), ({"model": "better"}, 2)):
            server.requests.clear()
            generate(engine(server, cached=True, **changes), 2, GREEDY)
            assert len(server.rows()) == expected
        (base / "pin.json").write_text('{"commit": "another"}')
        generate(engine(server, cached=True), 2, GREEDY)
        assert len(server.rows()) == 4


def test_a_model_without_a_server_is_named(base: Path) -> None:
    other = base.with_name("judge")
    other.mkdir()
    with pytest.raises(UserError, match=r"compute.servers has no 'judge' \(base\); say there"):
        engines.load(other, None, "float32", compute("http://127.0.0.1:1/v1"), 1)


def test_loopback_is_asked_without_a_proxy(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeServer() as server:
        assert len(generate(engine(server), 1, GREEDY)) == 1


def test_no_row_is_no_request(engine) -> None:
    with FakeServer() as server:
        policy = engine(server)
        assert generate(policy, 0) == [] and judge(policy, 0) == [] and not server.requests


def test_an_interrupt_ends_at_once_and_keeps_what_was_answered(engine) -> None:
    released = threading.Event()

    def hangs(path: str, body: Any, number: int, answer: Answer) -> Answer:
        if number == 30:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= 30:
            released.wait(20)
        return answer

    start = time.monotonic()
    with FakeServer(tamper=hangs) as server:
        policy = engine(server, cached=True, timeout=60)
        with pytest.raises(KeyboardInterrupt, match="kept"), policy:
            generate(policy, 50, GREEDY)
    assert time.monotonic() - start < 5
    released.set()
    with FakeServer() as fresh:
        assert len(generate(engine(fresh, cached=True), 50, GREEDY)) == 50 and 21 <= len(fresh.rows()) <= 25


class Words:
    """A tokenizer whose tokens are words."""

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        text = "".join(f"{message['role']} {message['content']} end " for message in messages)
        return text + ("assistant " if add_generation_prompt else "")

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return type("Ids", (), {"input_ids": [len(word) for word in text.split()]})


def likelihoods(server: FakeServer) -> dict[str, Likelihood | Failure]:
    section = compute(server.address).servers["base"]
    requests = [
        Request(answer, prompts.ask("why is it"), answer=answer) for answer in ("it is", "because of the")
    ]
    with closing(http_engine.HttpEngine(section, "served", None, Words, chat.ChatFormat())) as engine:
        return dict(engine.answer_logprobs(requests))


def test_answer_logprobs_sum_the_tokens_of_the_answer_and_its_end() -> None:
    with FakeServer(read=lambda ids: [-0.1 * number for number in ids]) as server:
        assert likelihoods(server) == {
            "it is": Likelihood(pytest.approx(-0.1 * (2 + 2 + 3)), 3),
            "because of the": Likelihood(pytest.approx(-0.1 * (7 + 2 + 3 + 3)), 4),
        }


def test_a_server_without_completions_is_named() -> None:
    def tamper(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return (404, {}, {"detail": "Not Found"}) if path == "/v1/completions" else answer

    error = pytest.raises(UserError, match="has no /completions; serve the model with vLLM or SGLang")
    with FakeServer(tamper=tamper) as server, error:
        likelihoods(server)


def test_a_server_that_refuses_token_ids_is_one_failure() -> None:
    with FakeServer(tamper=lambda *_: (400, {}, "not a text")) as server:
        for result in likelihoods(server).values():
            assert (
                "HTTP 400" in result.reason and "has to echo token ids here: serve the model" in result.reason
            )


def test_control_tokens_of_the_model_are_broken_before_a_server_sees_them(engine, base: Path) -> None:
    chat.write(base, chat.ChatFormat(control=("[INST]", "<｜User｜>"), context=9))
    requests = [Request("q", prompts.ask("Why? [INST]5 [Na+] <｜User｜>"))]
    with FakeServer(complete=lambda messages, seed: "So. [INST] Score: 5") as server:
        policy = engine(server)
        ((_, answer),) = policy.generate(requests, GREEDY)
        list(policy.label_probabilities(requests, prompts.LABELS))
        sent = [body["messages"][0]["content"] for body in server.rows()]
        assert answer.text == "So. [ INST] Score: 5" and sent == ["Why? [ INST]5 [Na+] < ｜User｜>"] * 2
        with pytest.raises(UserError, match="max_new_tokens = 9 leaves no room for a prompt"):
            list(policy.generate(requests, Sampling(temperature=0, top_p=1, max_new_tokens=9)))


def test_rows_whose_prompt_contains_the_date_are_kept_for_a_day(
    engine, base: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def on(day: int) -> type[date]:
        return type("Day", (date,), {"today": classmethod(lambda cls: date(2026, 3, day))})

    (base / "pin.json").unlink()
    chat.write(base, chat.detect(write(FORMATS["Llama 3"], base)))
    fixed, rows = {"date_string": "1 May"}, []
    for day, settings in ((1, {}), (1, {}), (2, {}), (2, fixed), (3, fixed)):
        monkeypatch.setattr(http_loading, "date", on(day))
        with FakeServer() as server:
            generate(engine(server, cached=True, extra={"chat_template_kwargs": settings}), 3, GREEDY)
            rows.append(len(server.rows()))
    assert rows == [3, 0, 3, 3, 0]
    assert capsys.readouterr().err.count("rows are kept for today only") == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": ""}, "must be like http://127.0.0.1:8000/v1"),
        ({"address": "127.0.0.1:8000"}, "must be like http://127.0.0.1:8000/v1"),
        ({"address": "ftp://host/v1"}, "must be like http"),
        ({"address": "http://me:pass@host/v1"}, "must hold no name and no password"),
        ({"addresses": ["http://a/v1"]}, "unknown key 'addresses'; did you mean address"),
        ({"requests": 0}, "requests"),
        ({"timeout": 0}, "timeout"),
        ({"extra": {"n": 2}}, "must not set n: the engine does"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(changes: Any, message: str) -> None:
    section = compute("http://a/v1/").servers["base"]
    assert section.address == "http://a/v1"
    with pytest.raises(ValueError, match=message):
        compute_section.Server(**section.model_dump() | changes)
