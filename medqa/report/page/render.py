"""The report's page: a template, a style sheet and a script as one file that loads nothing else.

Text from data reaches the page in two ways only: escaped by Jinja2, or as JSON that the script inserts as
text. The content security policy of the page allows no other script, style or request.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent
SCRIPTS = ("csv.js", "script.js")  # one after the other
_NONE = "–"


def render(context: dict[str, Any]) -> str:
    """The whole page. The same context gives the same text."""
    style = Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))
    script = Markup("".join((_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "minus": minus, "embedded": embedded}
    environment.filters["fragment"] = fragment
    template = environment.get_template("index.html.j2")
    page = template.render(policy=policy, style=style, script=script, **context)
    # Half of a surrogate pair is valid JSON but not valid UTF-8; its escape in JSON is the same text.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def embedded(value: Any) -> Markup:
    """JSON for a script element: no text in it can begin a tag or a comment, or end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def number(value: float | bool | None, decimals: int = 3) -> str:
    """A number for readers: separated thousands, floats with so many decimals, a dash for None."""
    if value is None:
        return _NONE
    text = f"{value:,.{decimals}f}" if isinstance(value, float) else f"{value:,}"
    return text.replace("-", "−")


def signed(value: float | None, decimals: int = 3) -> str:
    """A difference, with its sign."""
    return _NONE if value is None else f"{value:+,.{decimals}f}".replace("-", "−")


def minus(text: str) -> str:
    """A text with a minus sign before each negative number; its hyphens stay."""
    return re.sub(r"-(?=\d)", "−", text)


def fragment(text: str) -> str:
    """A text as a value in the fragment of an address. Half of a surrogate pair becomes a question mark."""
    return quote(text, safe="", errors="replace")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
