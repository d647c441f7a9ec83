"""Whether a server writes answers as a request states it: by seed, from the whole vocabulary, or greedily.

Servers have sampling settings of their own, which apply where a request names none: llama.cpp has top_k and
min_p, and vLLM and transformers serve take what the checkpoint's generation_config.json says.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from medqa.engines import http_answers
from medqa.engines.base import Completion, Sampling
from medqa.engines.http_answers import ServerError, Unanswered
from medqa.prompts import Messages, ask

QUESTION = ask("What are the symptoms of iron deficiency anemia, and how is it treated?")
SEEDED = Sampling(temperature=1.5, top_p=1, max_new_tokens=24)
SEEDS = (1, 1, 2)  # the first two have to give one text, the third a different one
# At this temperature all tokens are about equally likely: 64 draws from 1,500 tokens give 62 different ones,
# and from 50 tokens 36. Where top_k, min_p or top_p come before the temperature, there are even fewer.
FLAT, DRAWS, SHARE = 100.0, 64, 0.75
LEAST_TOP_P = 0.5  # of the draws: less than half of a small vocabulary would repeat itself too
# Long enough for a penalty on tokens that came before to change one.
GREEDY = {"max_tokens": 48, "temperature": 0, "top_p": 1, "logprobs": True, "top_logprobs": 5}
TIE = 0.05  # nats by which a chosen token may be less likely than the likeliest
NEUTRAL = {
    "top_k": (-1, 0),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}
REMEDY = (
    "set `extra` in compute.servers to {top_k: -1, min_p: 0, repetition_penalty: 1} for vLLM and SGLang, to "
    "{samplers: [temperature, top_p]} for llama.cpp, and for transformers serve delete such settings in the "
    "model's generation_config.json"
)


async def check_greedy(
    send: Callable[[Messages, dict[str, Any]], Awaitable[dict[str, Any]]], extra: dict[str, Any]
) -> None:
    """Raise ServerError if a greedy answer has tokens that are not the likeliest.

    `send` returns the choice for messages and the fields of a request. A server without log-probabilities is
    not checked; the parity check says of it that it has none.
    """
    if _states_more(extra):
        return
    with suppress(Unanswered):
        tokens = http_answers.read_chosen(await send(QUESTION, GREEDY))
        if changed := sum(chosen < likeliest - TIE for chosen, likeliest in tokens):
            raise ServerError(
                f"writes other tokens than the likeliest into a greedy answer ({changed} of {len(tokens)}), "
                f"as a penalty on repetition does that no request states; {REMEDY}"
            )


async def check_draws(
    complete: Callable[[Messages, Sampling, int], Awaitable[Completion]], top_p: float, extra: dict[str, Any]
) -> list[str]:
    """What to report of sampled answers, as the rest of sentences that begin with the server's address.

    Raises ServerError if seeds have no effect, or if draws come from a few tokens alone.
    """

    async def draw(sampling: Sampling, seed: int) -> str:
        return (await complete(QUESTION, sampling, seed)).text

    texts = [await draw(SEEDED, seed) for seed in SEEDS]
    if not any(texts):
        return [f"gives no text in {SEEDED.max_new_tokens} tokens: how it samples is not checked"]
    _check_seeds(*texts)
    notices = []
    if texts[0] != texts[1]:
        notices.append("gives another text for the same seed: rows cannot be reproduced")
    if not _states_more(extra):
        # The order shows too: top_p after this temperature keeps most tokens, top_p before it a few.
        flat = Sampling(FLAT, max(top_p, LEAST_TOP_P), max_new_tokens=1)
        try:
            _check_vocabulary([await draw(flat, seed) for seed in range(DRAWS)], flat)
        except Unanswered as error:
            notices.append(f"{error}: whether it samples from the whole vocabulary is not checked")
    return notices


def _check_seeds(first: str, repeated: str, different: str) -> None:
    if first == repeated == different:
        raise ServerError(
            "gives the same text for every seed, even at temperature 1.5, so that all answers to a "
            "question would be one; start it so that it samples (transformers serve: do_sample in the "
            "model's generation_config)"
        )


def _check_vocabulary(texts: list[str], sampling: Sampling) -> None:
    written = [text for text in texts if text]
    if len(written) < DRAWS / 2:  # a server may hide the first token of a thought
        raise Unanswered("gives no text in 1 token")
    if (different := len(set(written))) < SHARE * len(written):
        raise ServerError(
            f"samples from a part of the vocabulary that no request states ({different} different "
            f"tokens in {len(written)} draws at temperature {sampling.temperature:g} and top_p "
            f"{sampling.top_p:g}); {REMEDY}"
        )


def _states_more(extra: dict[str, Any]) -> bool:
    """Whether the user's own fields of a request state another distribution than temperature and top_p do."""
    return any(extra.get(name, values[0]) not in values for name, values in NEUTRAL.items())
