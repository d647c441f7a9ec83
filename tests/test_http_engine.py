"""The engine http: what servers say is checked, what they leave out is refused, and no row is lost or made
twice.
"""

import math
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fake_formats import FORMATS, write
from fake_server import FILLING, Answer, FakeServer

from medqa import chat, engines, prompts
from medqa.engines import Completion, Labels, Likelihood, Sampling, http_engine, pool, servers, thinking
from medqa.runtime import row_cache, sections
from medqa.runtime.errors import UserError

WARM = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=8)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)
ECHO = "/v1/completions"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "WAITS", (0.01, 0.02, 0.05))
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv(servers.KEY, raising=False)


def compute(*some: FakeServer, kept: bool = False, failed: int = 0, **changes: Any) -> sections.ComputeParams:
    given = {"addresses": [each.address for each in some], "model": "served", "requests": 4, "timeout": 5}
    given |= {"patience": 0.3, "extra": {}} | changes
    batches = {"generate_batch_size": 1, "judge_batch_size": 1, "processes": 1, "max_failed_rows": failed}
    return sections.ComputeParams(
        engine="http", servers={"base": given}, row_cache=kept, checkpoint_minutes=1, **batches
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    (folder / "pin.json").write_text("{}")
    chat.write(folder, chat.ChatFormat())
    return folder


@pytest.fixture
def engine(base: Path):
    def load(
        *some: FakeServer, adapter: Path | None = None, progress: Any = lambda _: None, **changes: Any
    ) -> Any:
        return engines.load(base, adapter, "float32", compute(*some, **changes), 1, progress)

    return load


def ask(engine: Any, rows: int = 3, sampling: Sampling = WARM) -> list[Completion]:
    return engine.generate([prompts.ask(f"q{row}") for row in range(rows)], sampling, list(range(rows)))


def judge(engine: Any, rows: int = 2) -> list[Labels]:
    return engine.label_probabilities([prompts.ask(f"q{row}") for row in range(rows)], prompts.LABELS)


def test_answers_come_in_the_order_of_what_was_asked_each_with_its_own_seed(engine) -> None:
    def late(path: str, body: Any, number: int, answer: Answer) -> Answer:
        time.sleep(0.002 * (number % 5))
        return answer

    counted: list[int] = []
    with FakeServer(spoils=late) as one, FakeServer(spoils=late) as two:
        given = ask(engine(one, two, progress=counted.append), rows=40)
        assert given == [Completion(f"q{row} {row}", "stop", 2) for row in range(40)]
        assert sum(counted) == 40 and len(one.rows()) > 10 and len(two.rows()) > 10
        assert max(one.busiest, two.busiest) <= 4
        sent = one.rows()[-1]
        assert (
            sent["temperature"] == 0.7
            and sent["top_p"] == 0.95
            and sent["max_tokens"] == 8
            and "n" not in sent
        )


def test_a_greedy_answer_is_asked_without_a_seed_and_cut_off_at_the_limit(engine) -> None:
    with FakeServer(speaks=lambda messages, seed: "a b c d e f g h i j") as server:
        given = ask(engine(server, extra={"top_k": -1}), 1, GREEDY)
        assert given == [Completion("a b c d e f g h", "length", 8)]
        assert [(body["temperature"], body.get("seed"), body["top_k"]) for body in server.rows()] == [
            (0, None, -1)
        ]


def test_label_probabilities_are_shares_of_what_the_labels_hold(engine) -> None:
    with FakeServer() as server:
        for given in judge(engine(server)):
            assert given.probabilities == pytest.approx((0, 0, 2 / 3, 1 / 3, 0))
            assert given.mass == pytest.approx(0.9)
        assert all(
            body["max_tokens"] == 1 and body["logprobs"] and body["top_logprobs"] == 20
            for body in server.rows()
        )
        server.tops = lambda messages: FILLING | {"the": 0.9}
        # No label is listed: no mass, which the judge calls unscored.
        assert judge(engine(server))[0] == Labels((0.2,) * 5, 0.0)


def test_a_label_that_is_not_listed_counts_as_nothing_and_mass_is_never_overstated(engine) -> None:
    truth = {"1": 1e-7, "2": 2e-7, "3": 0.55, "4": 0.4, "5": 3e-7}
    with FakeServer(tops=lambda messages: truth | FILLING) as server:
        given = judge(engine(server))[0]
    held = sum(truth.values())
    assert given.mass < held and given.mass == pytest.approx(held, abs=1e-5)
    assert given.probabilities == pytest.approx([share / held for share in truth.values()], abs=1e-5)


# What a server may do wrong in an answer to generate, and what is said of it.
LIES = {
    "more choices": (
        lambda data: {**data, "choices": data["choices"] * 2},
        "gives 2 choices where 1 was asked for",
    ),
    "no choices": (lambda data: {**data, "choices": None}, "gives no choices"),
    "empty choice": (lambda data: {**data, "choices": [{}]}, "gives choice None"),
    "out of order": (lambda data: changed(data, index=1), "gives choice 1 where choice 0 was asked for"),
    "another model": (
        lambda data: {**data, "model": "served-dpo"},
        "answers for the model 'served-dpo', not for 's",
    ),
    "no model": (lambda data: {**data, "model": None}, "answers for the model None"),
    "number for text": (lambda data: changed(data, message={"content": 5}), "gives a choice without a text"),
    "text for chat": (lambda data: changed(data, message="hello"), "gives a choice without a text"),
    "finish_reason": (lambda data: changed(data, finish_reason="eos"), "finish_reason 'eos'"),
    "no finish": (lambda data: changed(data, finish_reason=None), "finish_reason None"),
    "no usage": (lambda data: {**data, "usage": None}, "gives None for usage.completion_tokens"),
    "tokens no number": (lambda data: {**data, "usage": {"completion_tokens": True}}, "gives True for usage"),
    "tokens not finite": (
        lambda data: {**data, "usage": {"completion_tokens": math.nan}},
        "gives nan for usage",
    ),
    "max_tokens ignored": (
        lambda data: {**data, "usage": {"completion_tokens": 9}},
        "counts 9 tokens for a text",
    ),
    "tokens uncounted": (
        lambda data: {**data, "usage": {"completion_tokens": 0}},
        "counts 0 tokens for a text",
    ),
    "error under 200": (
        lambda data: {"error": {"message": "CUDA error"}},
        "error under HTTP 200: .*CUDA error",
    ),
    "not JSON": (lambda data: b"<html>Welcome</html>", "no JSON object but HTTP 200: <html>Welcome</html>; "),
    "cut JSON": (lambda data: b'{"model": "served", "choi', "no JSON object but HTTP 200"),
    "list": (lambda data: [data], "no JSON object but HTTP 200"),
    "nothing": (lambda data: b"", r"no JSON object but HTTP 200: \(nothing\)"),
}


def changed(data: Any, **choice: Any) -> Any:
    return {**data, "choices": [{**data["choices"][0], **choice}]}


@pytest.mark.parametrize(("lie", "message"), LIES.values(), ids=LIES)
def test_a_lie_is_noticed_and_names_the_address(engine, lie: Any, message: str) -> None:
    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return 200, {}, lie(answer[2])

    with FakeServer(spoils=spoils) as server, pytest.raises(UserError, match=message) as told:
        ask(engine(server), 3, GREEDY)
    assert str(told.value).startswith(server.address) and "\n" not in str(told.value)


def message(content: Any = None, finish_reason: str = "stop", **more: Any) -> Any:
    return lambda data: changed(data, message={"content": content, **more}, finish_reason=finish_reason)


# What a sound server may do with one row of several, and what is said of it.
NO_ANSWERS = {
    "nothing": (message(), "gives a message without a text"),
    "no content": (
        lambda data: changed(data, message={"role": "assistant"}),
        "gives a message without a text",
    ),
    "refusal": (message(refusal="I cannot\nhelp."), "refuses: I cannot help."),
    "filter": (
        message("So", "content_filter"),
        "ended with finish_reason 'content_filter', without an answer",
    ),
    "tool": (
        message(None, "tool_calls", tool_calls=[{"id": "1"}]),
        "finish_reason 'tool_calls', without an answer",
    ),
    "tool without its finish": (message(tool_calls=[{"id": "1"}]), "gives a message without a text"),
    "image": (message([{"type": "image_url", "image_url": {}}]), "gives a message without a text"),
    "no parts": (message([]), "gives a message without a text"),
    "no choices": (lambda data: {**data, "choices": []}, "gives 0 choices where 1 was asked for"),
    "given up": (message("So", "error"), "5 tries failed, the last at http.*: it gave the request up"),
}


def of_q1(change: Any) -> Any:
    """A server that changes its answer to the question q1."""

    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        chat = path.endswith("/chat/completions") and body["messages"][-1]["content"] == "q1"
        return (200, {}, change(answer[2])) if chat else answer

    return spoils


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("change", "message"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_row_without_an_answer_is_one_failed_row(
    engine, capsys, change, message: str, sampling: Sampling
) -> None:
    with FakeServer(spoils=of_q1(change)) as server:
        answers = ask(engine(server, failed=1, patience=60), 4, sampling)
        assert [each.finish_reason for each in answers] == ["stop", "failed", "stop", "stop"] and answers[
            1
        ].text == ""
        assert re.search(f"row 2: .*{message}.*; it is left undone .1 of at most 1", capsys.readouterr().err)
        with pytest.raises(UserError, match=f"row 2: .*{message}"):
            ask(engine(server, patience=60), 4, sampling)


def test_thoughts_that_a_server_hides_say_nothing_of_its_seeds(engine, capsys) -> None:
    hides = message(None, "length")
    with FakeServer(spoils=lambda path, body, number, answer: (200, {}, hides(answer[2]))) as server:
        assert ask(engine(server), 2) == [Completion("", "length", 3)] * 2
    assert "gives no text within 24 tokens: its seeds are not checked" in capsys.readouterr().err


def test_a_judge_without_an_answer_is_one_failed_row(engine) -> None:
    with FakeServer(spoils=of_q1(NO_ANSWERS["filter"][0])) as server:
        assert [each.mass > 0 for each in judge(engine(server, failed=1))] == [True, False]


PARTS = [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is C."}]
THOUGHTS = {"type": "thinking", "thinking": [{"type": "text", "text": "A?"}]}
# Messages that hold an answer in another way, and its text as it is kept.
UNUSUAL = {
    "parts": (message(PARTS), "The answer is C.", "stop"),
    "thoughts in parts": (message([THOUGHTS, *PARTS]), "<think>\nA?\n</think>\n\nThe answer is C.", "stop"),
    "thoughts apart": (message("C", reasoning_content="A?"), "<think>\nA?\n</think>\n\nC", "stop"),
    "of newer servers": (
        message("C", reasoning="A?", reasoning_content=None),
        "<think>\nA?\n</think>\n\nC",
        "stop",
    ),
    "cut off within them": (
        message(None, "length", reasoning_content="A?"),
        "<think>\nA?\n</think>",
        "length",
    ),
    "cut off, none kept": (message(None, "length"), "", "length"),
    "nothing after them": (message(None, reasoning="A?"), "<think>\nA?\n</think>", "stop"),
    "no parser": (message("<think>A?</think>C"), "<think>\nA?\n</think>\n\nC", "stop"),
    "no opening tag": (message("A?</think>C"), "<think>\nA?\n</think>\n\nC", "stop"),
    "no closing tag": (message("<think>A?", "length"), "<think>\nA?\n</think>", "length"),
    "control tokens": (
        message("C<|im_end|></think>", reasoning="A?</think>"),
        "<think>\nA?< /think>\n</think>\n\nC< |im_end|>< /think>",
        "stop",
    ),
    "empty": (message(""), "", "stop"),
    "no refusal": (message("C", refusal=None, tool_calls=[]), "C", "stop"),
}


@pytest.mark.parametrize(("change", "text", "finish"), UNUSUAL.values(), ids=UNUSUAL)
def test_an_answer_in_another_form_is_read(engine, change: Any, text: str, finish: str) -> None:
    with FakeServer(spoils=of_q1(change)) as server:
        answers = ask(engine(server), 3, GREEDY)[1]
        assert (answers.text, answers.finish_reason) == (text, finish)
        assert "\n</think>" not in text or thinking.split(text)[0]


def content(*top: Any) -> Any:
    listed = [{"token": token, "logprob": value} for token, value in top]
    return {"logprobs": {"content": [{"top_logprobs": listed}]}}


LABEL_LIES = {
    "no logprobs": (
        {"logprobs": None},
        "gives no logprobs, from which labels are read; serve the model with vLLM or ",
    ),
    "empty logprobs": ({"logprobs": {"content": []}}, "gives no logprobs"),
    "no top": ({"logprobs": {"content": [{"token": "3", "logprob": 0.0}]}}, "gives no logprobs"),
    "too few": (content(("3", -0.1), ("4", -3)), "lists 2 top_logprobs where 20 were asked for"),
    "not finite": (content(*[("3", math.nan)] * 20), "no logarithm of a probability"),
    "infinite": (content(*[("3", -math.inf)] * 20), "no logarithm of a probability"),
    "positive": (content(*[("3", 1.5)] * 20), "no logarithm of a probability"),
    "text": (content(*[("3", "-1")] * 20), "no logarithm of a probability"),
    "too much": (content(*[(f"{place}", -0.1) for place in range(20)]), "add up to a probability of 18.1"),
    "token ids": (
        content(*[(f"token_id:{place}", -5) for place in range(20)]),
        "--return-tokens-as-token-ids",
    ),
}


@pytest.mark.parametrize(("lie", "message"), LABEL_LIES.values(), ids=LABEL_LIES)
def test_label_probabilities_that_were_not_given_are_not_made_up(engine, lie: Any, message: str) -> None:
    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return 200, {}, changed(answer[2], **lie)

    with FakeServer(spoils=spoils) as server, pytest.raises(UserError, match=message) as told:
        judge(engine(server))
    assert str(told.value).startswith(server.address)


@pytest.mark.parametrize(
    ("status", "key", "message"),
    [
        (401, "", r"refuses with HTTP 401 \(a key has to be in the environment variable MEDQA_API_KEY\)"),
        (403, "s3cret", r"refuses with HTTP 403 \(another key has to be"),
        (400, "", "row 1: .* refuses with HTTP 400: .*maximum context length"),
        (422, "", r"row 1: .* refuses with HTTP 422 \(a field that it does not know, perhaps of `extra`\)"),
        (307, "", "answers with no JSON object but HTTP 307"),
    ],
)
def test_what_a_server_refuses_is_not_asked_again(
    engine, monkeypatch, status: int, key: str, message: str
) -> None:
    monkeypatch.setenv(servers.KEY, key)

    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return status, {}, {"error": f"maximum context length; your key was Bearer {key}"}

    with FakeServer(spoils=spoils) as server:
        with pytest.raises(UserError, match=message) as told:
            ask(engine(server, requests=1), 1)
        assert len(server.asked) == 1
        assert server.headers[0].get("Authorization") == (f"Bearer {key}" if key else None)
    assert not key or key not in str(told.value)


def test_a_model_that_is_not_served_is_told_with_those_that_are(engine) -> None:
    told = pytest.raises(UserError, match="serves no model 'served' but qwen, other; correct `model`")
    with FakeServer(models=("qwen", "other")) as server, told:
        ask(engine(server), 1, GREEDY)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_when_it_says(engine, status: int) -> None:
    moments: list[float] = []

    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        moments.append(time.monotonic())
        return (status, {"Retry-After": "0.3"}, {"error": "busy"}) if number == 1 else answer

    with FakeServer(spoils=spoils) as server:
        assert len(ask(engine(server, requests=1), 2, GREEDY)) == 2
    assert moments[1] - moments[0] >= 0.29


def test_retry_after_may_be_a_date() -> None:
    from email.utils import formatdate

    assert 25 < servers._seconds(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert [servers._seconds(text) for text in ("", "soon", "7", "0")] == [0, 0, 7, 0]


def test_a_slow_server_times_out_and_its_rows_go_to_another(engine) -> None:
    done = threading.Event()

    def sleeps(path: str, body: Any, number: int, answer: Answer) -> Answer:
        done.wait(5)
        return answer

    with FakeServer(spoils=sleeps) as slow, FakeServer() as quick:
        started = time.monotonic()
        given = ask(engine(slow, quick, timeout=0.3, patience=5), 20, GREEDY)
        done.set()
        assert [each.text for each in given] == [f"q{row} None" for row in range(20)]
        assert 1 <= len(slow.rows()) <= 8 and time.monotonic() - started < 3


def test_a_server_that_trickles_is_slow_too() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        with suppress(OSError):
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()
    with listener, pytest.raises(servers.Unreached, match="no answer within 0.4 s"):
        servers.Client(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", 0.4).ask("/models")
    assert time.monotonic() - started < 2


def test_a_row_that_always_fails_is_named_and_the_others_are_kept(engine) -> None:
    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return (500, {}, "boom") if body["messages"][-1]["content"] == "q7" else answer

    with FakeServer(spoils=spoils) as server:
        loaded = engine(server, kept=True, requests=1, patience=60)
        with pytest.raises(UserError, match="row 8: 5 tries failed, the last at http.*HTTP 500"):
            ask(loaded, 12, GREEDY)
        server.spoils, server.asked = (lambda *given: given[-1]), []
        assert len(ask(loaded, 12, GREEDY)) == 12 and len(server.rows()) <= 6


def test_two_servers_and_one_killed_midway_lose_no_row_and_make_none_twice(engine) -> None:
    def dies(path: str, body: Any, number: int, answer: Answer) -> Answer:
        time.sleep(0.001)
        if number == 30:
            one.die()
        return answer

    finished: Counter[int] = Counter()
    with (
        FakeServer(spoils=dies) as one,
        FakeServer(spoils=lambda *given: time.sleep(0.001) or given[-1]) as two,
    ):
        loaded = engine(one, two, kept=True, progress=lambda rows: finished.update(rows=rows), patience=5)
        given = ask(loaded, 200)
        assert [each.text for each in given] == [f"q{row} {row}" for row in range(200)]
        assert finished["rows"] == 200
        # Only what was under way when it died is asked again.
        asked = Counter(
            body["messages"][-1]["content"] for body in one.rows() + two.rows() if body["max_tokens"] == 8
        )
        assert len(asked) == 200 and 200 < sum(asked.values()) <= 204 and max(asked.values()) == 2
        two.asked.clear()
        assert ask(loaded, 200) == given and not two.asked


def test_all_servers_dead_midway_keeps_what_was_answered(engine) -> None:
    def dies(path: str, body: Any, number: int, answer: Answer) -> Answer:
        if number == 30:
            one.die()
            two.die()
        return answer

    with FakeServer(spoils=dies) as one, FakeServer() as two, FakeServer() as fresh:
        with pytest.raises(UserError, match="no server of base has answered for 0.3 s: http") as told:
            ask(engine(one, two, kept=True), 300, GREEDY)
        assert (
            one.address in str(told.value) and two.address in str(told.value) and "\n" not in str(told.value)
        )
        before = len(one.rows()) + len(two.rows())
        # Where a server stands is no part of a row's key.
        assert len(ask(engine(fresh, kept=True), 300, GREEDY)) == 300
        assert 300 - before <= len(fresh.rows()) <= 300 - before + 8


def test_an_address_that_was_never_there_is_passed_over(engine) -> None:
    with FakeServer() as gone:
        pass
    with FakeServer() as server:
        assert len(ask(engine(gone, server, patience=5), 10)) == 10


def test_a_seed_that_plays_no_part_is_refused(engine) -> None:
    with FakeServer(speaks=lambda messages, seed: "always this") as server:
        with pytest.raises(UserError, match="gives the same text for every seed, even at temperature 1.5"):
            ask(engine(server))
        # Greedy answers and labels need none.
        assert ask(engine(server), 1, GREEDY)[0].text == "always this"


def test_a_seed_that_is_not_kept_is_told(engine, capsys) -> None:
    drawn = iter(range(99))
    with FakeServer(speaks=lambda messages, seed: f"text {next(drawn)}") as server:
        assert len(ask(engine(server))) == 3
    assert f"http: {server.address} gives another text for the same seed" in capsys.readouterr().err


def test_control_tokens_in_a_text_are_broken_up_and_told_once(engine, capsys) -> None:
    with FakeServer(speaks=lambda messages, seed: "well<|im_end|> <think>x") as server:
        assert {each.text for each in ask(engine(server), 5, GREEDY)} == {"well< |im_end|> < think>x"}
    assert capsys.readouterr().err.count("control tokens") == 1


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "sft"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_an_adapter_is_asked_for_by_its_content_so_that_a_stale_one_is_not_taken(
    engine, adapter: Path
) -> None:
    with FakeServer() as server:
        with pytest.raises(
            UserError, match=r"does not serve the adapter sft-(\w{8}) \(but served\); .*--lora-modules "
        ):
            ask(engine(server, adapter=adapter), 1)
        name = [body for path, body in server.asked if path.endswith("load_lora_adapter")][0]
        assert name["lora_path"] == str(adapter)
        server.models.append(name["lora_name"])
        ask(engine(server, adapter=adapter), 1)
        assert server.rows()[-1]["model"] == name["lora_name"]
        (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
        with pytest.raises(UserError, match="does not serve the adapter sft-"):
            ask(engine(server, adapter=adapter), 1)


def test_a_server_that_may_load_adapters_loads_them_once(engine, adapter: Path) -> None:
    def loads(path: str, body: Any, number: int, answer: Answer) -> Answer:
        if path.endswith("load_lora_adapter"):
            server.models.append(body["lora_name"])
            return 200, {}, b"Success: LoRA adapter added successfully."
        return answer

    with FakeServer(spoils=loads) as server:
        assert len(ask(engine(server, adapter=adapter), 20)) == 20
        assert Counter(path for path, _ in server.asked)["/v1/load_lora_adapter"] == 1


def test_what_determines_an_answer_is_in_the_key(engine, adapter: Path, base: Path) -> None:
    with FakeServer(models=("served", "better")) as server:
        for changes, made in (({}, 2), ({}, 0), ({"extra": {"top_k": 5}}, 2), ({"model": "better"}, 2)):
            server.asked.clear()
            ask(engine(server, kept=True, **changes), 2, GREEDY)
            assert len(server.rows()) == made
        (base / "pin.json").write_text('{"commit": "another"}')
        ask(engine(server, kept=True), 2, GREEDY)
        assert len(server.rows()) == 4


def test_a_model_without_a_server_is_told(engine, base: Path) -> None:
    other = base.with_name("judge")
    other.mkdir()
    with (
        FakeServer() as server,
        pytest.raises(UserError, match=r"compute.servers has no 'judge' \(base\); say there"),
    ):
        engines.load(other, None, "float32", compute(server), 1)


def test_no_proxy_stands_before_loopback(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeServer() as server:
        assert len(ask(engine(server), 1, GREEDY)) == 1


def test_nothing_asked_is_nothing_sent(engine) -> None:
    with FakeServer() as server:
        loaded = engine(server)
        assert ask(loaded, 0) == [] and judge(loaded, 0) == [] and not server.asked


def test_an_interrupt_keeps_what_was_answered(engine, monkeypatch) -> None:
    monkeypatch.setattr(row_cache.RowCache, "kept", 0)  # it counts over a whole process

    def stop(rows: int) -> None:
        stopped.append(rows)
        if len(stopped) == 20:
            raise KeyboardInterrupt

    stopped: list[int] = []
    # The store tells of what it knows first: of nothing.
    with FakeServer() as server, pytest.raises(KeyboardInterrupt, match="20 rows of this run are kept"):
        ask(engine(server, kept=True, progress=lambda rows: rows and stop(rows)), 50, GREEDY)
    with FakeServer() as fresh:
        assert len(ask(engine(fresh, kept=True), 50, GREEDY)) == 50 and len(fresh.rows()) == 30


class Words:
    """A tokenizer whose tokens are words."""

    def apply_chat_template(self, turns: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        text = "".join(f"{turn['role']} {turn['content']} end " for turn in turns)
        return text + ("assistant " if add_generation_prompt else "")

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return type("Ids", (), {"input_ids": [len(word) for word in text.split()]})


def likelihoods(server: FakeServer) -> list[Likelihood]:
    given = compute(server).servers["base"]
    loaded = http_engine.HttpEngine(pool.Pool("base", given), "served", None, Words)
    return loaded.answer_logprobs([prompts.ask("why is it")] * 2, ["it is", "because of the"])


def test_answer_logprobs_sum_the_tokens_of_the_answer_and_its_end() -> None:
    with FakeServer(reads=lambda ids: [-0.1 * each for each in ids]) as server:
        assert likelihoods(server) == [
            Likelihood(pytest.approx(-0.1 * (2 + 2 + 3)), 3),
            Likelihood(pytest.approx(-0.1 * (7 + 2 + 3 + 3)), 4),
        ]


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (
            None,
            r"gives no logprobs of the \d+ tokens that it was sent .echo., .*set compute.engine to transformers",
        ),
        ({"token_logprobs": [-1.0]}, r"gives no logprobs of the \d+ tokens"),
        ({"token_logprobs": [None] * 10}, "no logarithm of a probability"),
        ({"token_logprobs": [None, *[math.nan] * 9]}, "no logarithm of a probability"),
        ({"token_logprobs": [None, *[0.5] * 9]}, "no logarithm of a probability"),
    ],
)
def test_a_likelihood_that_was_not_given_is_not_made_up(lie: Any, message: str) -> None:
    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return 200, {}, changed(answer[2], logprobs=lie)

    with FakeServer(spoils=spoils) as server, pytest.raises(UserError, match=message):
        likelihoods(server)


def test_a_server_without_completions_is_told() -> None:
    def spoils(path: str, body: Any, number: int, answer: Answer) -> Answer:
        return (404, {}, {"detail": "Not Found"}) if path == ECHO else answer

    told = pytest.raises(UserError, match="has no /completions; serve the model with vLLM or SGLang")
    with FakeServer(spoils=spoils) as server, told:
        likelihoods(server)


def test_the_models_own_control_tokens_are_broken_before_a_server_sees_them(engine, base: Path) -> None:
    chat.write(base, chat.ChatFormat(control=("[INST]", "<｜User｜>"), context=9))
    with FakeServer(speaks=lambda messages, seed: "So. [INST] Score: 5") as server:
        loaded, asked = engine(server), [prompts.ask("Why? [INST]5 [Na+] <｜User｜>")]
        (told,) = loaded.generate(asked, GREEDY, [0])
        loaded.label_probabilities(asked, prompts.LABELS)
        sent = [body["messages"][0]["content"] for body in server.rows()]
        assert told.text == "So. [ INST] Score: 5" and sent == ["Why? [ INST]5 [Na+] < ｜User｜>"] * 2
        with pytest.raises(UserError, match="max_new_tokens = 9 leaves no room for a prompt"):
            loaded.generate(asked, Sampling(temperature=0, top_p=1, max_new_tokens=9), [0])


def test_rows_whose_prompt_says_the_date_are_kept_for_a_day(engine, base: Path, monkeypatch, capsys) -> None:
    def on(day: int) -> type[date]:
        return type("Day", (date,), {"today": classmethod(lambda cls: date(2026, 3, day))})

    (base / "pin.json").unlink()
    chat.write(base, chat.detect(write(FORMATS["Llama 3"], base)))
    rows = []
    for day, extra in (
        (1, {}),
        (1, {}),
        (2, {}),
        (2, {"date_string": "1 May"}),
        (3, {"date_string": "1 May"}),
    ):
        monkeypatch.setattr(http_engine, "date", on(day))
        with FakeServer() as server:
            ask(engine(server, kept=True, extra={"chat_template_kwargs": extra}), 3, GREEDY)
            rows.append(len(server.rows()))
    assert rows == [3, 0, 3, 3, 0]
    assert capsys.readouterr().err.count("rows are kept for today only") == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"addresses": []}, "addresses"),
        ({"addresses": ["127.0.0.1:8000"]}, "must be like http://127.0.0.1:8000/v1"),
        ({"addresses": ["ftp://host/v1"]}, "must be like http"),
        ({"addresses": ["http://me:pass@host/v1"]}, "must hold no name and no password"),
        ({"requests": 0}, "requests"),
        ({"timeout": 0}, "timeout"),
        ({"extra": {"n": 2}}, "must not set n: the engine does"),
    ],
)
def test_a_server_that_makes_no_sense_is_refused(changes: Any, message: str) -> None:
    given = {
        "addresses": ["http://a/v1/"],
        "model": "m",
        "requests": 1,
        "timeout": 1,
        "patience": 1,
        "extra": {},
    }
    assert sections.Server(**given).addresses == ["http://a/v1"]
    with pytest.raises(ValueError, match=message):
        sections.Server(**given | changes)
