"""Between messages and token ids: prompts, answers and labels of one model."""

from collections.abc import Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

from medqa import chat
from medqa.engines import thinking
from medqa.engines.base import Completion, Failure
from medqa.prompts import Messages
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ChatTokens:
    """The tokenizer of a model, and the facts of its chat format."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"):
        self.tok, self.name = tokenizer, str(model.name_or_path)
        settings = model.config.to_dict(), model.generation_config.to_dict()
        self.format = chat.from_tokenizer(tokenizer, *settings, self.name)
        # Decoding leaves control tokens out. Tags around thoughts may be control tokens, and are needed.
        special = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.tags = {id: tag for id, tag in special.items() if tag in chain(*thinking.TAGS)}

    def render(self, conversations: Sequence[Messages], answered: bool = False, **settings: Any) -> list[str]:
        """The text of each conversation, up to where the answer begins unless it is answered.

        `settings` are for the chat template.
        """
        return [
            self.tok.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not answered, **settings
            )
            for messages in conversations
        ]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of rendered texts, of which there is at least one."""
        return self.tok(texts, add_special_tokens=False).input_ids

    def completion(self, ids: list[int], opening: str) -> Completion:
        """The answer of these tokens, to a prompt that ends with the tag `opening` (empty: with none)."""
        ended = ids[-1] in self.format.ends.values()
        written = ids[:-1] if ended else ids
        pieces = (
            self.tags[tag] if tag is not None else self.tok.decode(list(group), skip_special_tokens=True)
            for tag, group in groupby(written, lambda id: id if id in self.tags else None)
        )
        text = "".join(pieces).strip()
        # If it was cut off before a closing tag, all of it is thoughts, and only the prompt shows that.
        text = text if ended else f"{opening}{text}"
        return Completion(text, "stop" if ended else "length", len(written))

    def beyond_context(self, ids: Sequence[int], max_new_tokens: int = 0) -> Failure | None:
        """The failure of a prompt that leaves no room in the context for so many new tokens, else None."""
        context = self.format.context
        if not context or len(ids) + max_new_tokens <= context:
            return None
        verb = f" and max_new_tokens = {max_new_tokens} do" if max_new_tokens else " does"
        return Failure(f"a prompt of {len(ids)} tokens{verb} not fit in a context of {context}; shorten it")

    def label_ids(self, labels: Sequence[str]) -> tuple[list[int], list[int]]:
        """The tokens that all labels begin with (the mark of a word's beginning, or none), and the last ones.

        Raises UserError where the last tokens alone do not distinguish the labels.
        """
        rows = [self.tok.encode(label, add_special_tokens=False) for label in labels]
        leads, ids = {tuple(row[:-1]) for row in rows}, [row[-1] for row in rows]
        if len(leads) != 1 or len(set(ids)) != len(labels):
            raise UserError(
                f"{self.name}: the labels {', '.join(labels)} are not one token each to this tokenizer; "
                "choose another judge"
            )
        return [*leads.pop()], ids
