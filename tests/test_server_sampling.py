"""Before the first row of a kind of sampling, a server has to show that it samples as a request states it."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from fake_server import Answer, FakeServer

from medqa import chat
from medqa.engines import Request, Sampling, server_sampling
from medqa.engines.http_engine import HttpEngine
from medqa.runtime.compute_section import Server
from medqa.runtime.errors import UserError

GREEDY, WARM = Sampling(0, 1, 8), Sampling(0.7, 0.9, 8)
NEUTRAL = {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0}
Change = Callable[[Any, Any], Any]  # of an answer, by the body of its request


def ask(change: Change, sampling: Sampling, concerns: Callable[[Any], bool], **extra: Any) -> int:
    """Asks for two rows twice, and returns how many requests were checks."""

    def tamper(path: str, body: Any, number: int, answer: Answer) -> Answer:
        checks = body["messages"] == server_sampling.QUESTION and concerns(body)
        return change(body, answer) if checks else answer

    rows = [Request(name, [{"role": "user", "content": name}], seed=1) for name in ("first", "second")]
    with FakeServer(tamper=tamper) as server:
        section = {"address": server.address, "model": "served", "requests": 4, "timeout": 5, "patience": 0}
        with closing(
            HttpEngine(Server(**section, extra=extra), "served", None, None, chat.ChatFormat())
        ) as engine:
            for _ in range(2):
                assert len(dict(engine.generate(rows, sampling))) == 2
        assert len(server.rows()) == 4
        return len(server.requests) - 4


def draws(body: Any) -> bool:
    return body["temperature"] == server_sampling.FLAT


def greedy(body: Any) -> bool:
    return "logprobs" in body


def text(content: Callable[[int], str]) -> Change:
    def change(body: Any, answer: Answer) -> Answer:
        answer[2]["choices"][0]["message"] = {"content": content(body["seed"])}
        return answer

    return change


def refuse(body: Any, answer: Answer) -> Answer:
    return 400, {}, {"error": "temperature must be at most 2, logprobs are off"}


def penalise(body: Any, answer: Answer) -> Answer:
    entries = answer[2]["choices"][0]["logprobs"]["content"]
    likelier = [{"token": "the", "logprob": 0.0}]
    entries.append({"token": "a", "logprob": -0.5, "top_logprobs": likelier})
    return answer


@pytest.mark.parametrize(("sampling", "checks"), [(GREEDY, 1), (WARM, 1 + 3 + server_sampling.DRAWS)])
def test_an_honest_server_is_checked_once(capsys, sampling: Sampling, checks: int) -> None:
    assert ask(refuse, sampling, lambda body: False) == checks
    assert ask(refuse, sampling, lambda body: False, **NEUTRAL) == checks
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "concerns", "sampling", "message"),
    [
        (
            text(lambda seed: f"word{seed % 40}"),
            draws,
            WARM,
            r"\(40 different tokens in 64 draws at .* 0.9\)",
        ),
        (text(lambda seed: "yes"), draws, WARM, r"\(1 different tokens in 64 draws"),
        (penalise, greedy, GREEDY, r"other tokens than the likeliest into a greedy answer \(1 of 2\)"),
        (penalise, greedy, WARM, "as a penalty on repetition does that no request states; set `extra`"),
    ],
)
def test_a_setting_of_its_own_is_refused_unless_the_user_states_it(
    change: Change, concerns: Any, sampling: Sampling, message: str
) -> None:
    with pytest.raises(UserError, match=f"^http://127.0.0.1:.* {message}"):
        ask(change, sampling, concerns)
    with pytest.raises(UserError, match=message):
        ask(change, sampling, concerns, **NEUTRAL)
    for stated in ({"top_k": 40}, {"min_p": 0.05}, {"repetition_penalty": 1.1}):
        ask(change, sampling, concerns, **stated)


@pytest.mark.parametrize(
    ("change", "message"),
    [(refuse, "temperature must be at most 2"), (text(lambda seed: ""), "gives no text in 1 token")],
)
def test_draws_that_a_server_does_not_show_are_reported(capsys, change: Change, message: str) -> None:
    ask(change, WARM, draws)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "whether it samples from the whole vocabulary is not checked" in line


def test_a_server_that_refuses_logprobs_still_answers(capsys) -> None:
    ask(refuse, GREEDY, greedy)
    assert capsys.readouterr().err == ""
