"""The chat format of a model: its template, the ends of an answer, its control tokens, its context."""

from medqa.chat.format import RECORD, ChatFormat, context, detect, from_tokenizer, read, write
from medqa.chat.rendering import DATE, dated, end_of_turn, on, template, tokenizer
from medqa.prefixes import common_prefix

__all__ = ["DATE", "RECORD", "ChatFormat", "common_prefix", "context", "dated", "detect", "end_of_turn"]
__all__ += ["from_tokenizer", "on", "read", "template", "tokenizer", "write"]
