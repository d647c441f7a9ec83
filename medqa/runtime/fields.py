"""What the sections of params.yaml are made of: a strict model, and numbers that are no booleans."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

DTYPES = ("float32", "bfloat16", "float16")
PROMPTS = Path(__file__).parent.parent / "prompts"
TEMPLATES = {  # of the judge, by method
    "grades": tuple(sorted(path.stem for path in PROMPTS.glob("judge*.txt"))),
    "points": tuple(sorted(path.stem for path in PROMPTS.glob("points*.txt"))),
}
ALL_TEMPLATES = tuple(chain.from_iterable(TEMPLATES.values()))


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_no_bool)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_no_bool)]
PositiveShare = Annotated[float, Field(gt=0, le=1), BeforeValidator(_no_bool)]
Ratio = Annotated[float, Field(ge=1), BeforeValidator(_no_bool)]
LearningRate = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_no_bool)]


class Section(BaseModel):
    """A section of params.yaml: no unknown key, none missing, no infinity; numeric text is a number."""

    model_config = ConfigDict(
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra={"additionalProperties": False},
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        known = cls.model_fields if cls.model_config.get("extra") != "allow" else raw
        unknown = [key for key in raw if key not in known] if isinstance(raw, dict) else []
        if unknown:
            raise ValueError(describe_unknown(unknown[0], cls.model_fields))
        return raw


def _seed(value: int) -> int:
    if not 0 <= value < 2**31:
        raise ValueError("must be from 0 to 2147483647")
    return value


def _dtype(value: str) -> str:
    if value not in DTYPES:
        raise ValueError("must be float32, bfloat16 or float16")
    return value


def _corpus(value: str) -> str:
    if not value.strip() or not Path(value).is_dir():
        raise ValueError("must be a folder that exists, absolute or relative to params.yaml")
    written = [Path(name).resolve() for name in ("data", "models", "metrics") if Path(name).is_dir()]
    if any(folder.is_relative_to(Path(value).resolve()) for folder in written):
        raise ValueError("holds what stages write; must be a folder of its own, such as data/raw")
    return value


def _template(value: str) -> str:
    if value not in ALL_TEMPLATES:
        raise ValueError(f"must be one of {', '.join(ALL_TEMPLATES)}")
    return value


Seed = Annotated[
    Int, AfterValidator(_seed), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 2**31 - 1})
]
Dtype = Annotated[str, AfterValidator(_dtype), WithJsonSchema({"enum": list(DTYPES)})]
Corpus = Annotated[str, AfterValidator(_corpus)]
JudgeTemplate = Annotated[str, AfterValidator(_template), WithJsonSchema({"enum": list(ALL_TEMPLATES)})]


def describe_unknown(key: str, known: Iterable[str]) -> str:
    """The message about a key that is none of `known`."""
    near = get_close_matches(str(key), list(known), n=1)
    return f"has an unknown key {key!r}; " + (
        f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    )
