"""What an exported model must share with the run's own: its weights, its prompts and their token ids."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from medqa.prompts import ask, reply
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOTHING = "nothing was written"


def digests(model: "PreTrainedModel") -> dict[str, str]:
    """The sha256 of each weight by its name."""
    import torch

    return {
        name: hashlib.sha256(
            parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, parameter in model.named_parameters()
    }


def check_weights(expected: dict[str, str], model: "PreTrainedModel") -> None:
    """Raise UserError unless a model has these weights, bit for bit."""
    if different := sorted(set(expected.items()) ^ set(digests(model).items())):
        raise UserError(f"the weight {different[0][0]} does not load back as it was written; {NOTHING}")


def check_chat(
    original: "PreTrainedTokenizerBase", exported: "PreTrainedTokenizerBase", questions: Iterable[str]
) -> None:
    """Raise UserError unless an exported tokenizer makes the same prompts, of the same token ids.

    It reads each question as a prompt, and a conversation of two.
    """
    questions = list(questions)
    conversations = [ask(question) for question in questions]
    conversations.append([*ask(questions[0]), *reply("So it is."), *ask(questions[-1])])
    for messages in conversations:
        texts = [
            tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for tok in (original, exported)
        ]
        if texts[0] != texts[1]:
            raise UserError(
                f"the exported chat template makes the prompt {texts[1]!r:.120}, and the run's own made "
                f"{texts[0]!r:.120}; {NOTHING}"
            )
        ids = [tok(texts[0], add_special_tokens=False).input_ids for tok in (original, exported)]
        if ids[0] != ids[1]:
            raise UserError(f"the exported tokenizer reads {texts[0]!r:.120} as other tokens; {NOTHING}")
    if original.eos_token_id != exported.eos_token_id:
        raise UserError(f"the exported tokenizer ends an answer with {exported.eos_token!r}; {NOTHING}")
