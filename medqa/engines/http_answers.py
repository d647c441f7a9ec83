"""Reading what a server answered: what it has to hold is checked, and what is missing or made up is an error.

`client` has a method `wrong`, which makes the error and names the address.
"""

import math
from typing import Any

from medqa.engines import thinking
from medqa.engines.base import Likelihood
from medqa.engines.servers import Client, Unreached

SLACK = 0.01  # by which the probabilities that a server sends may exceed 1
NO_ANSWER = ("content_filter", "tool_calls", "function_call")  # finish reasons
REASONING = ("reasoning_content", "reasoning")  # where servers with a reasoning parser put thoughts
INSTEAD = "serve the model with vLLM or SGLang, or set compute.engine to transformers for this stage"


def choice(client: Client, data: dict[str, Any], model: str) -> tuple[dict[str, Any], int]:
    """The one choice and the number of its tokens.

    Raises Unanswered for a sound server without an answer to this row, Unreached if it gave the row up, else
    UserError.
    """
    # transformers serve adds the revision: name@main.
    if not isinstance(data.get("model"), str) or data["model"].split("@")[0] != model.split("@")[0]:
        raise client.wrong(f"answers for the model {data.get('model')!r}, not for {model!r}")
    choices = data.get("choices")
    if choices == []:
        raise client.unanswered("gives 0 choices where 1 was asked for")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise client.wrong(
            f"gives {len(choices) if isinstance(choices, list) else 'no'} choices where 1 was asked for"
        )
    index, finish = choices[0].get("index"), choices[0].get("finish_reason")
    if index != 0:
        raise client.wrong(f"gives choice {index!r} where choice 0 was asked for")
    if finish in ("abort", "error"):
        raise Unreached("it gave the request up", blamed=True)
    if finish in NO_ANSWER:
        raise client.unanswered(f"ended with finish_reason {finish!r}, without an answer")
    if finish not in ("stop", "length"):
        raise client.wrong(f"ended with finish_reason {finish!r}, which is neither stop nor length")
    usage = data.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or tokens < 0:
        raise client.wrong(f"gives {tokens!r} for usage.completion_tokens, which has to be a number")
    return choices[0], tokens


def parts(client: Client, choice: dict[str, Any], tokens: int, most: int) -> tuple[str, str]:
    """The thoughts and the answer of a chat's choice of at most `most` tokens.

    A server that takes thoughts out by itself may leave no answer beside them: it is empty then, as it is
    where the token limit came before it. Raises Unanswered for no text without a reason, and UserError for
    what is no chat.
    """
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else 0
    if isinstance(content, list):
        content = _text(content)
    if content is not None and not isinstance(content, str):
        raise client.wrong("gives a choice without a text")
    thoughts = next(
        (message[name] for name in REASONING if isinstance(message.get(name), str) and message[name]), ""
    )
    if content is None and not thoughts and choice["finish_reason"] != "length":
        refusal = message.get("refusal")
        why = (
            f"refuses: {' '.join(refusal.split())[:200]}"
            if isinstance(refusal, str)
            else "gives a message without a text"
        )
        raise client.unanswered(why)
    size = len(content or "") + len(thoughts)
    if tokens > most or (size and not tokens):
        raise client.wrong(
            f"counts {tokens} tokens for a text of {size} characters and at most {most} tokens"
        )
    return (thoughts, (content or "").strip()) if thoughts else thinking.split(content or "")


def _text(content: list[Any]) -> str | None:
    """The text of a message in parts, thoughts within their tags; none if a part is something else."""
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if kind in ("text", "thinking") else None
        value = _text(value) if isinstance(value, list) else value
        if not isinstance(value, str):
            return None
        texts.append(thinking.join(value, "") if kind == "thinking" else value)
    return "".join(texts) if texts else None


def listed(client: Client, choice: dict[str, Any], most: int) -> dict[str, float]:
    """The probabilities of the `most` likeliest first tokens, by their text."""
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(each["token"], each["logprob"]) for each in top]
    except (KeyError, IndexError, TypeError):
        raise client.wrong(f"gives no logprobs, from which labels are read; {INSTEAD}") from None
    if len(pairs) < most:
        raise client.wrong(f"lists {len(pairs)} top_logprobs where {most} were asked for; raise its limit")
    if not all(isinstance(token, str) and _sound(value) for token, value in pairs):
        raise client.wrong("gives a logprob that is no logarithm of a probability")
    if pairs[0][0].startswith("token_id:"):
        raise client.wrong("names tokens by number; start it without --return-tokens-as-token-ids")
    found: dict[str, float] = {}
    for token, value in pairs:
        # Several tokens may read alike; of those the likeliest is meant.
        found[token] = max(found.get(token, 0.0), math.exp(value))
    if math.fsum(found.values()) > 1 + SLACK:
        raise client.wrong(f"gives logprobs that add up to a probability of {math.fsum(found.values()):.3g}")
    return found


def likelihood(client: Client, choice: dict[str, Any], start: int, length: int) -> Likelihood:
    """The log-probability of tokens `start` to `length` of a prompt that was echoed."""
    held = choice.get("logprobs")
    told = held.get("token_logprobs") if isinstance(held, dict) else None
    # The token that was generated, if any, comes after those of the prompt.
    if not isinstance(told, list) or not length <= len(told) <= length + 1:
        raise client.wrong(
            f"gives no logprobs of the {length} tokens that it was sent (echo), which preference alignment and the "
            f"baseline `likelier wins` need; {INSTEAD}"
        )
    if not all(map(_sound, told[start:length])):
        raise client.wrong("gives a logprob that is no logarithm of a probability")
    return Likelihood(math.fsum(told[start:length]), length - start)


def _sound(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value <= SLACK
