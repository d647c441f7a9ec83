"""Who labelled a pair: code, people, a model with its name, or unknown."""

import re
from typing import Any

UNKNOWN = "unknown"
_MODEL = re.compile(r"model:\s*(\S.*)", re.DOTALL)
# What the card of a data set says, by repository and label type; "" are all other types. GPT-4 ranked the
# answers of UltraMedical-Preference, and experts revised the labels of its test split.
_CARDS = {"TsinghuaC3I/UltraMedical-Preference": {"human": "people", "": "model: GPT-4"}}


def read_labeller(value: Any) -> str:
    """Who labelled a pair, as its row says: `code`, `people`, `unknown` or `model: NAME`; '' if it does not.

    Raises ValueError for anything else.
    """
    text = " ".join(value.split()) if isinstance(value, str) else "" if value is None else "?"
    if match := _MODEL.fullmatch(text):
        return f"model: {match[1]}"
    if text not in ("", "code", "people", UNKNOWN):
        raise ValueError("labelled_by is not code, people, unknown or model: NAME")
    return text


def labeller_of_repo(repo: str, label_type: str) -> str:
    """Who labelled the pairs of this label type in a data set of the Hub; `unknown` for most."""
    card = _CARDS.get(repo, {})
    return card.get(label_type, card.get("", UNKNOWN))
