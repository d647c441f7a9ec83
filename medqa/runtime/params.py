"""Reading params.yaml into one typed, strict object."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medqa.runtime.errors import UserError
from medqa.runtime.fields import describe_unknown
from medqa.runtime.sections import Params

PARAMS = Path("params.yaml")


def read_params(path: Path = PARAMS) -> Params:
    """The whole file, every section validated. Raises UserError with one line for each thing that is wrong.

    A mistake anywhere in the file ends the first stage that runs, before any work.
    """
    raw, sections = _parse(path), Params.model_fields
    wrong = [describe_unknown(key, sections) for key in raw if key not in sections]
    wrong += [f"section {key} is missing" for key in sections if key not in raw]
    try:
        params = Params.model_validate({key: raw[key] for key in raw if key in sections})
        wrong += _inconsistencies(params)
    except ValidationError as error:
        messages: dict[str, str] = {}
        for item in error.errors():
            if item["type"] != "missing" or len(item["loc"]) > 1:
                name, message = _describe(raw, item)
                # The first thing that is wrong with a key is enough: the others often follow from it.
                messages.setdefault(name, f"{name} {message}")
        wrong += messages.values()
    if wrong:
        raise UserError("\n".join(f"{path}: {line}" for line in wrong))
    return params


def _inconsistencies(params: Params) -> Iterator[str]:
    """What is wrong between two sections, or between a section and the corpus."""
    judges, judge = params.models.judges(), params.evaluate.judge
    if judge not in judges:
        yield f"evaluate.judge = {judge!r}: must be a judge of `models` ({', '.join(judges)})"
    for section, files in (("models", params.models.files()), ("data", params.data.files())):
        for name, file in files.items():
            if not (Path(params.corpus) / file).is_file():
                yield f"{section}.{name} = {file!r}: no such file in {params.corpus}"


def _parse(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there; copy a file of presets/ to it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold sections ({', '.join(Params.model_fields)})")
    return raw


def _describe(raw: Any, item: Any) -> tuple[str, str]:
    """The full name of the key that one of pydantic's errors is about, and what is wrong with it."""
    # Pydantic puts the tag of a chosen union member into the location; only keys of the file belong into the
    # message.
    keys = []
    for part in item["loc"]:
        if isinstance(raw, dict) and part in raw:
            keys, raw = [*keys, str(part)], raw[part]
        elif item["type"] == "missing" and part == item["loc"][-1]:
            keys.append(str(part))
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if item["type"].startswith("union_tag"):
        key = item["ctx"]["discriminator"].strip("'")
        keys, raw = [*keys, key], raw.get(key, raw)
        message = f"must be one of {item['ctx'].get('expected_tags')}"
    if item["type"] in ("missing", "union_tag_not_found"):
        message = "is missing"
    elif item["type"] in ("model_type", "model_attributes_type"):
        message = f"= {raw!r}: must hold keys of its own"
    elif not isinstance(raw, dict):
        message = f"= {raw!r}: {message}"
    return ".".join(keys), message
