"""Section `models` of params.yaml: the name and the source of each model directory."""

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from medqa.runtime.fields import Section
from medqa.runtime.model_sources import (
    Address,
    GgufModel,
    HubModel,
    Quantisation,
    ScratchJudge,
    ScratchModel,
    ShippedJudge,
    ShippedModel,
    TunedEncoder,
    TunedJudge,
    WheelEncoder,
    parse_address,
)

# Modules that DVC tracks import the sources from here: a new import there would train all models again.
__all__ = ["Address", "AnySource", "GgufModel", "HubModel", "ModelsParams", "Quantisation", "ScratchJudge"]
__all__ += ["ScratchModel", "ShippedModel", "TunedEncoder", "TunedJudge", "WheelEncoder", "parse_address"]

# Of a model. It becomes a part of paths and of a stage's name.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# Files that other stages write beside those of the models.
TAKEN = ("sft", "dpo", "placebo", "oracle", "scores")

Source = Annotated[HubModel | GgufModel | ShippedModel | ScratchModel, Field(discriminator="source")]
JudgeSource = Annotated[
    HubModel | GgufModel | ShippedJudge | ScratchJudge | TunedJudge | TunedEncoder,
    Field(discriminator="source"),
]
FurtherSource = Annotated[JudgeSource | WheelEncoder, Field(discriminator="source")]
AnySource = HubModel | GgufModel | ShippedModel | ScratchModel | TunedJudge | WheelEncoder | TunedEncoder


class ModelsParams(Section):
    """Section `models`: base, judge, and further judges and encoders under names of the user's."""

    model_config = ConfigDict(extra="allow", json_schema_extra={})
    __pydantic_extra__: dict[str, FurtherSource]
    base: Source
    """The base of the policy."""
    judge: JudgeSource
    """The judge that ranks the candidates."""

    @model_validator(mode="before")
    @classmethod
    def _names(cls, raw: Any) -> Any:
        taken = {*TAKEN, *cls.model_fields}
        for name in raw if isinstance(raw, dict) else ():
            if name in cls.model_fields:
                continue
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                raise ValueError(
                    f"has a model named {name!r}: a name is text of 1 to 64 letters, digits, - and _"
                )
            if name.lower() in taken:
                raise ValueError(
                    f"has a model named {name!r}: that name is taken, whatever its case; choose another"
                )
            taken.add(name.lower())
        return raw

    def sources(self) -> dict[str, AnySource]:
        """The source of each model by name, the base first. (A judge called `seed` is no attribute.)"""
        return {"base": self.base, "judge": self.judge, **(self.__pydantic_extra__ or {})}

    def judges(self) -> list[str]:
        """The names of the models that can judge."""
        further = self.__pydantic_extra__.items()
        return ["judge", *(name for name, source in further if not isinstance(source, WheelEncoder))]

    def seed(self, name: str, seed: int) -> int:
        """The seed of one model: two judges that are trained alike must not come out the same."""
        return (seed + list(self.sources()).index(name)) % 2**31

    def files(self) -> dict[str, str]:
        """The files that the section names, by key, relative to `corpus`."""
        return {
            f"{name}.{key}": file
            for name, source in self.sources().items()
            for key, file in _files(source).items()
        }


def _files(source: AnySource | Quantisation | None, prefix: str = "") -> dict[str, str]:
    match source:
        case GgufModel():
            local = {} if "://" in source.file else {f"{prefix}file": source.file}
            return local | _files(source.quantise, f"{prefix}quantise.")
        case TunedJudge():
            return _text_file(source.text, prefix) | _files(source.start, f"{prefix}start.")
        case TunedEncoder():
            excluded = {f"{prefix}exclude.{number}": file for number, file in enumerate(source.exclude)}
            return _text_file(source.text, prefix) | excluded
        case ScratchModel() | Quantisation():
            return _text_file(source.text, prefix)
        case _:
            return {}


def _text_file(text: str, prefix: str) -> dict[str, str]:
    return {} if text == "embedded" else {f"{prefix}text": text}
