"""The report's page: one template, one style sheet, one script, put together into a single file that asks for
nothing.

Text that comes from data reaches the page in two ways only: escaped by Jinja2, or as JSON that the script
puts into the document as text. The policy at the page's head lets no other script or style run, and no
request leave.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent
_NONE = "–"


def render(context: dict[str, Any]) -> str:
    """The whole page. The same context gives the same text."""
    style, script = (
        Markup((_HERE / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js")
    )
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "embedded": embedded}
    page = environment.get_template("index.html.j2").render(
        policy=policy, style=style, script=script, **context
    )
    # Half of a surrogate pair is valid JSON and no valid UTF-8; in JSON, its escape is the very same text.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def embedded(value: Any) -> Markup:
    """JSON that nothing in a text can end: no tag and no comment can begin in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def number(value: float | bool | None, places: int = 3) -> str:
    """A figure for people: thousands set apart, floats to so many places, a dash for none."""
    if value is None:
        return _NONE
    text = f"{value:,.{places}f}" if isinstance(value, float) else f"{value:,}"
    return text.replace("-", "−")


def signed(value: float | None, places: int = 3) -> str:
    """A difference, with its sign."""
    return _NONE if value is None else f"{value:+,.{places}f}".replace("-", "−")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
