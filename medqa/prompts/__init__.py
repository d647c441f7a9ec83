"""Chat messages for answering and judging."""

from medqa.prompts.messages import (
    CRITERIA,
    LABELS,
    NO_REFERENCE,
    Messages,
    ask,
    default_system,
    escape_control_tokens,
    judge,
    labels,
    method,
    reply,
    statement,
    templates,
)

__all__ = ["CRITERIA", "LABELS", "NO_REFERENCE", "Messages", "ask", "default_system", "escape_control_tokens"]
__all__ += ["judge", "labels", "method", "reply", "statement", "templates"]
