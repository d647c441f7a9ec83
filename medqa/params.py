"""Reading params.yaml: one strict model a section, defined beside the function that uses it."""

import importlib
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    model_validator,
)

PARAMS = Path("params.yaml")

# Named, not imported: a stage that reads its own section must not depend on every module, yet a mistake anywhere in the
# file has to end the first stage that runs, before any work. Checking cannot change what a stage writes.
SECTIONS = {
    "seed": "medqa.params:Seed",
    "dtype": "medqa.params:Dtype",
    "corpus": "medqa.params:Corpus",
    "models": "medqa.models:Params",
    "data": "medqa.data:Params",
    "sft": "medqa.sft:Params",
    "generate": "medqa.generate:Params",
    "judge": "medqa.judge:Params",
    "pairs": "medqa.pairs:Params",
    "dpo": "medqa.dpo:Params",
    "evaluate": "medqa.evaluate:Params",
    "agreement": "medqa.agreement:Params",
    "compare": "medqa.compare:Params",
    "report": "medqa.report:Params",
    "compute": "medqa.engines:Params",
}


class UserError(Exception):
    """A mistake a user can mend, told in one sentence."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]


class Section(BaseModel):
    """A section of params.yaml: no unknown key, none missing, no infinite number. Text that is a number is one."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        known = cls.model_fields if cls.model_config.get("extra") != "allow" else raw
        unknown = [key for key in raw if key not in known] if isinstance(raw, dict) else []
        if unknown:
            raise ValueError(_unknown(unknown[0], cls.model_fields))
        return raw


def _seed(value: int) -> int:
    if not 0 <= value < 2**31:
        raise ValueError("must be from 0 to 2147483647")
    return value


def _dtype(value: str) -> str:
    if value not in ("float32", "bfloat16", "float16"):
        raise ValueError("must be float32, bfloat16 or float16")
    return value


def _corpus(value: str) -> str:
    if not value.strip() or not Path(value).is_dir():
        raise ValueError("must be a folder that exists, absolute or relative to params.yaml")
    written = [Path(name).resolve() for name in ("data", "models", "metrics") if Path(name).is_dir()]
    if any(folder.is_relative_to(Path(value).resolve()) for folder in written):
        raise ValueError("holds what stages write; must be a folder of its own, such as data/raw")
    return value


Seed = Annotated[Int, AfterValidator(_seed)]
Dtype = Annotated[str, AfterValidator(_dtype)]
Corpus = Annotated[str, AfterValidator(_corpus)]


def read(path: Path = PARAMS) -> dict[str, Any]:
    """The whole file, every section validated. Raises UserError with one line for each thing that is wrong."""
    raw = _parse(path)
    wrong = [f"{path}: {_unknown(key, SECTIONS)}" for key in raw if key not in SECTIONS]
    wrong += [f"{path}: section {key} is missing" for key in SECTIONS if key not in raw]
    checked = {}
    for key in [key for key in SECTIONS if key in raw]:
        module, model = SECTIONS[key].split(":")
        try:
            kind = getattr(importlib.import_module(module), model)
            checked[key] = TypeAdapter(kind).validate_python(raw[key])
        except ValidationError as error:
            told: dict[str, str] = {}
            for name, message in (_told(key, raw[key], item) for item in error.errors()):
                # The first thing that is wrong with a key is enough: the others often follow from it.
                told.setdefault(name, f"{path}: {name} {message}")
            wrong += told.values()
    if not wrong:
        judges = checked["models"].judges()
        if checked["evaluate"].judge not in judges:
            given = checked["evaluate"].judge
            wrong = [f"{path}: evaluate.judge = {given!r}: must be a judge of `models` ({', '.join(judges)})"]
        named = {f"{key}.{name}": file for key in ("models", "data") for name, file in checked[key].files().items()}
        missing = {name: file for name, file in named.items() if not (Path(checked["corpus"]) / file).is_file()}
        wrong += [f"{path}: {name} = {file!r}: no such file in {checked['corpus']}" for name, file in missing.items()]
    if wrong:
        raise UserError("\n".join(wrong))
    return checked


def project() -> Path:
    """The folder of the main repository, also from a temporary run."""
    return Path(os.environ.get("DVC_ROOT") or ".")


def scratch_root() -> Path:
    """Where work in progress is kept: $MEDQA_CACHE, absolute or relative to the main repository, else .medqa in it.

    Raises UserError if a file is there.
    """
    try:
        root = project() / Path(os.environ.get("MEDQA_CACHE", "").strip() or ".medqa").expanduser()
    except RuntimeError:
        raise UserError(f"MEDQA_CACHE = {os.environ['MEDQA_CACHE']}: that user has no home; name a folder") from None
    if file := next((path for path in (root, *root.parents) if path.is_file()), None):
        raise UserError(f"{file} is a file, and work in progress is kept below it; set MEDQA_CACHE to another folder")
    return root


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
        raise UserError(f"{path} must hold sections ({', '.join(SECTIONS)})")
    return raw


def _told(name: str, raw: Any, item: dict[str, Any]) -> tuple[str, str]:
    """The full name of the key that one of pydantic's errors is about, and what to tell of it."""
    # Pydantic puts the tag of a chosen union member into the location; only keys of the file belong into the message.
    for part in item["loc"]:
        if isinstance(raw, dict) and part in raw:
            name, raw = f"{name}.{part}", raw[part]
        elif item["type"] == "missing" and part == item["loc"][-1]:
            name = f"{name}.{part}"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if item["type"].startswith("union_tag"):
        key = item["ctx"]["discriminator"].strip("'")
        name, raw = f"{name}.{key}", raw.get(key, raw)
        message = f"must be one of {item['ctx'].get('expected_tags')}"
    if item["type"] in ("missing", "union_tag_not_found"):
        message = "is missing"
    elif item["type"] in ("model_type", "model_attributes_type"):
        message = f"= {raw!r}: must hold keys of its own"
    elif not isinstance(raw, dict):
        message = f"= {raw!r}: {message}"
    return name, message


def _unknown(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(str(key), list(known), n=1)
    return f"has an unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
