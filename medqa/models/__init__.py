"""Where a model directory comes from: pinned on the Hub, or trained from scratch on text that is at hand."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from medqa import attacks, records
from medqa.models import fit, reading, scratch
from medqa.params import Float, Int, Section
from medqa.prompts import Template
from medqa.records import Unseen
from medqa.sources import damage

PASSES = 4  # ways to string the texts together before the first comes again
CALIBRATION_ROWS = 48  # texts that GPTQ measures its rounding on
UNSEEN_FILE = "unseen.jsonl"
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
    steps: Int = Field(ge=5)
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
    """Section `models` of params.yaml: the policy's base, the judge, and further judges under names of the user's."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JudgeSource]
    base: Source
    judge: JudgeSource

    def judges(self) -> list[str]:
        """The names of the models that can judge."""
        return ["judge", *self.__pydantic_extra__]

    def seed(self, name: str, seed: int) -> int:
        """The seed of one model: two judges that are trained alike must not come out the same."""
        return (seed + ["base", *self.judges()].index(name)) % 2**31

    def files(self) -> dict[str, str]:
        """The files that it names, by key, relative to `corpus`."""
        sources = {name: getattr(self, name) for name in ("base", *self.judges())}
        texts = {f"{name}.text": source.text for name, source in sources.items() if isinstance(source, Scratch)}
        return {name: text for name, text in texts.items() if text != "embedded"}


def make(source: Hub | Scratch, corpus: Path, seed: int, out: Path) -> list[float]:
    """Make the model directory `out`: pin it, or train it; returns the loss of each training step.

    A base is trained on running text and quantised to four bits by GPTQ, a judge on damaged answers. Raises UserError
    if the Hub or the text cannot be read.
    """
    if isinstance(source, Hub):
        from medqa import hub

        hub.pin(source.repo, source.revision, out)
        return []
    return (
        scratch_judge(source, corpus, seed, out)
        if isinstance(source, Judge)
        else scratch_base(source, corpus, seed, out)
    )


def summary(out: Path, losses: Sequence[float]) -> dict[str, Any]:
    """The metrics of a model directory: its pin, or the last mean loss and how well a judge does on unseen lessons."""
    if (out / "pin.json").is_file():
        from medqa import hub

        pinned = json.loads((out / "pin.json").read_text(encoding="utf-8"))
        licence, files = hub.licence(out), len(pinned["files"])
        return {"repo": pinned["repo"], "commit": pinned["commit"], "licence": licence, "files": files}
    result: dict[str, Any] = {"steps": len(losses), "final_loss": fit.tail_mean(losses)}
    if (out / UNSEEN_FILE).is_file():
        unseen = list(records.read(out / UNSEEN_FILE, Unseen))
        right = [wanted == told for row in unseen for wanted, told in zip(row.wanted, row.told, strict=True)]
        result |= {"unseen_lessons": len(unseen), "unseen_lessons_exact": fmean(right)}
    return result


def scratch_base(source: Scratch, corpus: Path, seed: int, out: Path) -> list[float]:
    """Train a tiny base model on running text and chats, quantise it to four bits, and write it to `out`."""
    read = reading.gather(source.text, corpus, seed)
    tok = scratch.tokenizer(read.wording, source.vocabulary)
    chats = tok.apply_chat_template(read.chats, tokenize=False)
    documents = [ids + [tok.pad_token_id] for ids in tok([*read.texts, *chats]).input_ids]
    needed = source.steps * source.batch_size * source.max_length / sum(map(len, documents))
    rows = fit.pack(documents, source.max_length, passes=min(PASSES, math.ceil(needed)), seed=seed)
    trained = scratch.model(tok, source.width, source.layers, source.head, seed)
    losses = fit.fit(trained, rows, source.steps, source.batch_size, source.learning_rate, seed, "base")
    sample = [tok.decode(row.ids) for row in rows[:CALIBRATION_ROWS]]
    with scratch.staged(out) as folder:
        scratch.quantise(trained, tok, sample, folder)
    return losses


def scratch_judge(source: Judge, corpus: Path, seed: int, out: Path) -> list[float]:
    """Train a tiny judge on damaged answers and write it to `out`, with what it says of lessons it has not seen."""
    read = reading.gather(source.text, corpus, seed)
    tok = scratch.tokenizer(read.wording, source.vocabulary)
    rng = random.Random(f"lessons {seed}")
    lures = attacks.taught()
    drawn = [damage.lesson(next(read.facts), lures, rng) for _ in range(source.lessons + UNSEEN)]
    rows = fit.lesson_rows(tok, drawn, source.template, source.max_length)
    trained = scratch.model(tok, source.width, source.layers, source.head, seed)
    scratch.look_for_the_same(trained)
    losses = fit.fit(trained, rows[UNSEEN:], source.steps, source.batch_size, source.learning_rate, seed, "judge")
    told = fit.predicted(trained, rows[:UNSEEN], source.batch_size)
    unseen = [
        Unseen(f"{number:04d}", tok.decode(row.ids), tok.batch_decode(row.labels), tok.batch_decode(labels))
        for number, (row, labels) in enumerate(zip(rows, told, strict=False))
    ]
    with scratch.staged(out) as folder:
        trained.save_pretrained(folder)
        tok.save_pretrained(folder)
        records.write(folder / UNSEEN_FILE, unseen)
    return losses
