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
    reply,
    templates,
)

__all__ = ["CRITERIA", "LABELS", "NO_REFERENCE", "Messages", "ask", "default_system", "escape_control_tokens"]
__all__ += ["judge", "reply", "templates"]
