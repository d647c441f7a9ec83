"""Where a model directory comes from: pinned on the Hub, or trained from scratch on text that is at hand."""

import math
import random
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medqa import damage, fit, reading, scratch
from medqa.params import Float, Int, Section
from medqa.prompts import Template

PASSES = 4  # ways to string the texts together before the first comes again
CALIBRATION_ROWS = 48  # texts that GPTQ measures its rounding on
UNSEEN = 1000  # lessons kept back to measure the judge on


class Hub(Section):
    """A model of the Hub, pinned to a commit."""

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(min_length=1)


class Scratch(Section):
    """A tiny model trained here. `text` is `embedded` or a file in UltraMedical's format, relative to `corpus`."""

    source: Literal["scratch"]
    text: str
    vocabulary: Int = Field(ge=300, le=100_000)
    width: Int = Field(ge=128, multiple_of=128)  # GPTQ's group size
    layers: Int = Field(ge=1, le=48)
    head: Int = Field(ge=16, multiple_of=16)
    steps: Int = Field(ge=1)
    batch_size: Int = Field(ge=1)
    learning_rate: Float = Field(gt=0, lt=1)
    max_length: Int = Field(ge=16, le=2048)

    @model_validator(mode="after")
    def _heads(self) -> "Scratch":
        if self.width % self.head:
            raise ValueError(f"width {self.width} must be a multiple of head {self.head}")
        return self


class Judge(Scratch):
    """A tiny judge; `template` is the prompt it learns to be asked with."""

    width: Int = Field(ge=32, multiple_of=32)
    template: Template
    lessons: Int = Field(ge=1)


Source = Annotated[Hub | Scratch, Field(discriminator="source")]
JudgeSource = Annotated[Hub | Judge, Field(discriminator="source")]


class Params(Section):
    """Section `models` of params.yaml."""

    base: Source
    judge: JudgeSource

    def files(self) -> dict[str, str]:
        """The files that it names, by key, relative to `corpus`."""
        sources = {"base": self.base, "judge": self.judge}
        texts = {f"{name}.text": source.text for name, source in sources.items() if isinstance(source, Scratch)}
        return {name: text for name, text in texts.items() if text != "embedded"}


def make(source: Hub | Scratch, corpus: Path, seed: int, out: Path) -> dict[str, Any]:
    """Make the model directory `out`: pin it, or train it; returns the metrics.

    A base is trained on running text and quantised to four bits by GPTQ, a judge on damaged answers. Raises UserError
    if the Hub or the text cannot be read.
    """
    if isinstance(source, Hub):
        from medqa import hub

        pinned = hub.pin(source.repo, source.revision, out)
        return {"repo": source.repo, "commit": pinned["commit"], "files": len(pinned["files"])}
    return (
        scratch_judge(source, corpus, seed, out)
        if isinstance(source, Judge)
        else scratch_base(source, corpus, seed, out)
    )


def scratch_base(source: Scratch, corpus: Path, seed: int, out: Path) -> dict[str, Any]:
    """Train a tiny base model on running text and chats, quantise it to four bits, and write it to `out`."""
    read = reading.gather(source.text, corpus, seed)
    tok = scratch.tokenizer(read.wording, source.vocabulary)
    chats = tok.apply_chat_template(read.chats, tokenize=False)
    documents = [ids + [tok.pad_token_id] for ids in tok([*read.texts, *chats]).input_ids]
    needed = source.steps * source.batch_size * source.max_length / sum(map(len, documents))
    rows = fit.pack(documents, source.max_length, passes=min(PASSES, math.ceil(needed)), seed=seed)
    trained = scratch.model(tok, source.width, source.layers, source.head, seed)
    loss = fit.fit(trained, rows, source.steps, source.batch_size, source.learning_rate, seed, "base")
    sample = [tok.decode(row.ids) for row in rows[:CALIBRATION_ROWS]]
    with scratch.staged(out) as folder:
        scratch.quantise(trained, tok, sample, folder)
    return {"parameters": trained.num_parameters(), "tokens_read": sum(map(len, documents)), "final_loss": loss}


def scratch_judge(source: Judge, corpus: Path, seed: int, out: Path) -> dict[str, Any]:
    """Train a tiny judge on damaged answers and write it to `out`; its exactness is on lessons it has not seen."""
    read = reading.gather(source.text, corpus, seed)
    tok = scratch.tokenizer(read.wording, source.vocabulary)
    rng = random.Random(f"lessons {seed}")
    drawn = [damage.lesson(next(read.facts), rng) for _ in range(source.lessons + UNSEEN)]
    rows = fit.lesson_rows(tok, drawn, source.template, source.max_length)
    trained = scratch.model(tok, source.width, source.layers, source.head, seed)
    scratch.look_for_the_same(trained)
    loss = fit.fit(trained, rows[UNSEEN:], source.steps, source.batch_size, source.learning_rate, seed, "judge")
    exact = fit.exactness(trained, rows[:UNSEEN], source.batch_size)
    with scratch.staged(out) as folder:
        trained.save_pretrained(folder)
        tok.save_pretrained(folder)
    return {"parameters": trained.num_parameters(), "final_loss": loss, "unseen_lessons_exact": exact}
