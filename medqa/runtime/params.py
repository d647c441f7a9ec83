"""Reading params.yaml into one typed, strict object."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from medqa.runtime.errors import UserError
from medqa.runtime.fields import describe_unknown
from medqa.runtime.sections import Params

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PARAMS = Path("params.yaml")


def read_params(path: Path = PARAMS) -> Params:
    """The whole file, every section validated. Raises UserError with one line per mistake.

    A mistake anywhere in the file ends the first stage that runs, before any work.
    """
    raw, sections = _parse(path), Params.model_fields
    mistakes = [describe_unknown(key, sections) for key in raw if key not in sections]
    mistakes += [f"section {key} is missing" for key in sections if key not in raw]
    try:
        params = Params.model_validate({key: raw[key] for key in raw if key in sections})
    except ValidationError as error:
        messages: dict[str, str] = {}
        for details in error.errors():
            if details["type"] != "missing" or len(details["loc"]) > 1:
                key, message = _describe(raw, details)
                # The first mistake of a key is enough: the others often follow from it.
                messages.setdefault(key, f"{key} {message}")
        mistakes += messages.values()
    else:
        mistakes += _inconsistencies(params)
    if mistakes:
        raise UserError("\n".join(f"{path}: {line}" for line in mistakes))
    return params


def _inconsistencies(params: Params) -> Iterator[str]:
    """Mistakes between two sections, or between a section and the corpus."""
    judges, judge = params.models.judges(), params.evaluate.judge
    if judge not in judges:
        yield f"evaluate.judge = {judge!r}: must be a judge of `models` ({', '.join(judges)})"
    sources = params.models.sources()
    if params.encoder not in sources:
        yield f"encoder = {params.encoder!r}: must be a model of `models` ({', '.join(sources)})"
    for name in dict.fromkeys(("judge", judge)):
        template = getattr(sources.get(name), "template", params.judge.template)
        if template != params.judge.template:
            yield (
                f"models.{name}.template = {template!r}: must be judge.template = {params.judge.template!r}, "
                "since a judge that is trained here knows only the prompt of its training"
            )
    for section in ("models", "data", "benchmark"):
        for name, file in getattr(params, section).files().items():
            if not (Path(params.corpus) / file).is_file():
                yield f"{section}.{name} = {file!r}: no such file in {params.corpus}"


def _parse(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there; medqa preset base writes it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold sections ({', '.join(Params.model_fields)})")
    return raw


def _describe(raw: Any, details: "ErrorDetails") -> tuple[str, str]:
    """The full name of the key that one of pydantic's errors is about, and the message."""
    # Pydantic puts the tag of a chosen union member into the location; the message has only keys of the file.
    keys: list[str] = []
    kind = details["type"]
    for part in details["loc"]:
        if isinstance(raw, dict) and part in raw:
            keys, raw = [*keys, str(part)], raw[part]
        elif kind == "missing" and part == details["loc"][-1]:
            keys.append(str(part))
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind.startswith("union_tag"):
        key = details["ctx"]["discriminator"].strip("'")
        keys, raw = [*keys, key], raw.get(key, raw)
        message = f"must be one of {details['ctx'].get('expected_tags')}"
    if kind in ("missing", "union_tag_not_found"):
        message = "is missing"
    elif kind in ("model_type", "model_attributes_type"):
        message = f"= {raw!r}: must hold keys of its own"
    elif not isinstance(raw, dict):
        message = f"= {raw!r}: {message}"
    return ".".join(keys), message
