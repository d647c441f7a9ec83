"""How a model is spoken to."""

from medqa.chat.format import RECORD, ChatFormat, context, inspect, look, read, write
from medqa.chat.rendering import DATE, dated, end, tokenizer
from medqa.prefixes import common_prefix

__all__ = [
    "ChatFormat",
    "DATE",
    "RECORD",
    "common_prefix",
    "context",
    "dated",
    "end",
    "inspect",
    "look",
    "read",
    "tokenizer",
    "write",
]
