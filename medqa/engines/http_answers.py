"""What an answer of a model server has to hold: whatever is missing or made up is refused."""

import math
from collections.abc import Sequence
from typing import Any

from medqa.engines import thinking
from medqa.engines.base import Labels, Likelihood, NextTokens

SLACK = 0.01  # by which the probabilities that a server sends may exceed 1
NO_ANSWER = ("abort", "error", "content_filter", "tool_calls", "function_call")  # finish reasons
REASONING = ("reasoning_content", "reasoning")  # where servers with a reasoning parser put thoughts
INSTEAD = "serve the model with vLLM or SGLang, or set compute.engine to transformers for this stage"


class ServerError(Exception):
    """What is wrong with a server, as the rest of a sentence that begins with its address."""


class NotFound(ServerError):
    """The server does not know a path or a model."""


class Unanswered(Exception):
    """Why a working server has no answer to this one request, as the rest of such a sentence."""


def read_choice(data: dict[str, Any], model: str) -> dict[str, Any]:
    """The one choice of an answer for `model`, with the number of its tokens as `tokens`."""
    # transformers serve adds the revision: name@main.
    if str(data.get("model")).split("@")[0] != model.split("@")[0]:
        raise ServerError(f"answers for the model {data.get('model')!r}, not for {model!r}")
    choices = data.get("choices")
    if choices == []:
        raise Unanswered("gives 0 choices where 1 was asked for")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "no"
        raise ServerError(f"gives {count} choices where 1 was asked for")
    index, finish_reason = choices[0].get("index"), choices[0].get("finish_reason")
    if index != 0:
        raise ServerError(f"gives choice {index!r} where choice 0 was asked for")
    if finish_reason in NO_ANSWER:
        raise Unanswered(f"ended with finish_reason {finish_reason!r}, without an answer")
    if finish_reason not in ("stop", "length"):
        raise ServerError(f"ended with finish_reason {finish_reason!r}, which is neither stop nor length")
    usage = data.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or tokens < 0:
        raise ServerError(f"gives {tokens!r} for usage.completion_tokens, which has to be a number")
    return choices[0] | {"tokens": tokens}


def read_message(choice: dict[str, Any], max_tokens: int) -> tuple[str, str]:
    """The thoughts and the answer of a chat's choice.

    The answer is empty where a server that separates thoughts by itself gives nothing but thoughts, or where
    the token limit came first.
    """
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ServerError("gives a choice without a text")
    content = message.get("content")
    if isinstance(content, list):
        content = _join_parts(content)
    if content is not None and not isinstance(content, str):
        raise ServerError("gives a choice without a text")
    fields = [message[name] for name in REASONING if isinstance(message.get(name), str)]
    thoughts = next(filter(None, fields), "")
    if content is None and not thoughts and choice["finish_reason"] != "length":
        refusal = message.get("refusal")
        if isinstance(refusal, str):
            raise Unanswered(f"refuses: {' '.join(refusal.split())[:200]}")
        raise Unanswered("gives a message without a text")
    tokens, size = choice["tokens"], len(content or "") + len(thoughts)
    if tokens > max_tokens or (size and not tokens):
        raise ServerError(
            f"counts {tokens} tokens for a text of {size} characters and at most {max_tokens} tokens"
        )
    return (thoughts, (content or "").strip()) if thoughts else thinking.split(content or "")


def _join_parts(parts: list[Any]) -> str | None:
    """The text of a message in parts, thoughts within their tags; None if a part is something else."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if kind in ("text", "thinking") else None
        value = _join_parts(value) if isinstance(value, list) else value
        if not isinstance(value, str):
            return None
        texts.append(thinking.join(value, "") if kind == "thinking" else value)
    return "".join(texts) if texts else None


def without_text(choice: dict[str, Any]) -> bool:
    """Whether a chat's answer is empty, or nothing but part of a character."""
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, str) and not content.strip("\ufffd")


def read_labels(choice: dict[str, Any], labels: Sequence[str], count: int) -> Labels:
    """The shares of the labels in their mass; one that is not among the `count` likeliest tokens counts as 0.

    Its true probability is below that of the last token listed, so that mass is never overstated.
    """
    pairs = top_logprobs(choice)
    if not pairs:
        raise ServerError(f"gives no logprobs, from which labels are read; {INSTEAD}")
    if len(pairs) < count:
        raise ServerError(f"lists {len(pairs)} top_logprobs where {count} were asked for; raise its limit")
    top = _probabilities(pairs)
    probabilities = [top.get(label, 0.0) for label in labels]
    mass = math.fsum(probabilities)
    shares = [probability / mass if mass else 1 / len(labels) for probability in probabilities]
    return Labels(tuple(shares), min(mass, 1.0))


def read_next_tokens(choice: dict[str, Any]) -> NextTokens:
    """The likeliest first tokens that the server lists."""
    pairs = sorted(top_logprobs(choice), key=lambda pair: -pair[1])
    if not pairs:
        raise Unanswered("gives no logprobs")
    return NextTokens(tuple(token for token, _ in pairs), tuple(logprob for _, logprob in pairs))


def read_chosen(choice: dict[str, Any]) -> list[tuple[float, float]]:
    """The log-probability of each token of an answer, and of the likeliest one; none where none is listed."""
    try:
        tokens = [
            [entry["logprob"], *(top["logprob"] for top in entry["top_logprobs"])]
            for entry in choice["logprobs"]["content"]
        ]
    except (KeyError, TypeError):
        return []
    for logprobs in tokens:
        _check_logprobs(logprobs)
    return [(logprobs[0], max(logprobs)) for logprobs in tokens]


def top_logprobs(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """The first tokens that are listed, with their log-probabilities; none if the server lists none."""
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(entry["token"], entry["logprob"]) for entry in entries]
    except (KeyError, IndexError, TypeError):
        return []
    if not all(isinstance(token, str) for token, _ in pairs):
        raise ServerError("gives a logprob of no token")
    _check_logprobs([logprob for _, logprob in pairs])
    if any(token.startswith("token_id:") for token, _ in pairs):
        raise ServerError("names tokens by number; start it without --return-tokens-as-token-ids")
    total = math.fsum(_probabilities(pairs).values())
    if total > 1 + SLACK:
        raise ServerError(f"gives logprobs that add up to a probability of {total:.3g}")
    return pairs


def _probabilities(pairs: list[tuple[str, float]]) -> dict[str, float]:
    probabilities: dict[str, float] = {}
    for token, logprob in pairs:
        # Several tokens may have the same text; the likeliest of them is meant.
        probabilities[token] = max(probabilities.get(token, 0.0), math.exp(logprob))
    return probabilities


def read_likelihood(choice: dict[str, Any], start: int, length: int) -> Likelihood:
    """The log-probability of tokens `start` to `length` of a prompt that was echoed."""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    # The token that was generated, if any, comes after those of the prompt.
    if not isinstance(tokens, list) or not length <= len(tokens) <= length + 1:
        raise ServerError(
            f"gives no logprobs of the {length} tokens that it was sent (echo), which preference alignment "
            f"and the baseline `likelier wins` need; {INSTEAD}"
        )
    _check_logprobs(tokens[start:length])
    return Likelihood(math.fsum(tokens[start:length]), length - start)


def _check_logprobs(values: list[Any]) -> None:
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value) or value > SLACK:
            raise ServerError("gives a logprob that is no logarithm of a probability")
