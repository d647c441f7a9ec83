"""An answer word by word as it is written, and in the end the same text that `evaluate` gets."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from medqa.engines import Completion, Sampling, thinking
from medqa.engines.continuous_batching import ContinuousBatch, Decoding
from medqa.prompts import Messages
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from medqa.engines.transformers_engine import TransformersEngine


def stream(
    engine: "TransformersEngine",
    messages: Messages,
    sampling: Sampling,
    show: Callable[[str], None],
    seed: int = 0,
) -> Completion:
    """Write the answer to messages and call `show` with each new part; its text is that of all parts.

    A reasoning model's thoughts are left out. Raises UserError for a prompt that leaves no room in the
    context.
    """
    import torch

    chat = engine.chat
    (text,) = chat.render([messages])
    (prompt,) = chat.tokenize([text])
    if failure := chat.beyond_context(prompt, sampling.max_new_tokens):
        raise UserError(f"the answer is not written: {failure.reason}")
    opening, shown = thinking.opened(text), ""
    batch = ContinuousBatch(engine.model, sampling, list(chat.format.ends.values()))
    decoding = Decoding(0, prompt, seed)
    with torch.inference_mode():
        ended = batch.join([decoding])
        while not ended:
            shown += _show(show, shown, _whole_words(_answer(chat.completion(decoding.tokens, opening))))
            ended = batch.step()
    completion = chat.completion(decoding.tokens, opening)
    answer = _answer(completion)
    _show(show, shown, answer)
    return replace(completion, text=answer)


def _answer(completion: Completion) -> str:
    return thinking.split(completion.text)[1]


def _whole_words(text: str) -> str:
    """The text without its last word, which may still grow, or be the beginning of a tag."""
    return text[: max(text.rfind(" "), text.rfind("\n"), 0)]


def _show(show: Callable[[str], None], shown: str, text: str) -> str:
    """Show what a text adds to what is shown already; returns it."""
    added = text[len(shown) :]
    if added:
        show(added)
    return added
