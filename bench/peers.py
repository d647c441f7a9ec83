"""What the benchmarks compare with: a notebook's loop over single answers, and TRL's trainers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medqa import prompts
from medqa.records import Example, Pair
from medqa.training import fine_tuning

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode(tokenizer: "PreTrainedTokenizerBase", messages: prompts.Messages) -> list[int]:
    """The token ids of a prompt in the chat format."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False).input_ids


def write(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    messages: prompts.Messages,
    **sampling: Any,
) -> list[int]:
    """The token ids of one answer, written by a call of its own as in a notebook."""
    import torch

    ids: torch.Tensor = torch.tensor([encode(tokenizer, messages)], device=model.device)
    output = model.generate(input_ids=ids, pad_token_id=tokenizer.pad_token_id, **sampling)
    return output[0, ids.shape[1] :].tolist()


def lora_config(r: int, alpha: int) -> "LoraConfig":
    """The stage's adapter, for TRL."""
    from peft import LoraConfig

    return LoraConfig(r=r, lora_alpha=alpha, task_type="CAUSAL_LM", target_modules=fine_tuning.TARGETS)


def sft_rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Examples as TRL's SFT trainer takes them."""
    return [
        {"prompt": prompts.ask(row.question), "completion": prompts.reply(row.answer)} for row in examples
    ]


def dpo_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Pairs as TRL's DPO trainer takes them."""
    return [
        {
            "prompt": prompts.ask(pair.question),
            "chosen": prompts.reply(pair.chosen),
            "rejected": prompts.reply(pair.rejected),
        }
        for pair in pairs
    ]
