"""What bench.gpu works on: model shapes, rows, tokens and batches at real size and at a small one."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench import checkpoints
from medqa import judge, records
from medqa.miniature import embedded


@dataclass(frozen=True)
class Size:
    """The amounts: model shapes, and rows, tokens and batches of each part."""

    base: checkpoints.Shape
    judge: checkpoints.Shape
    product: int  # width of the matrices whose product is timed
    length: int  # tokens per training row
    few: int  # training rows of the run that is subtracted, so that loading does not count; 0 subtracts none
    many: int
    questions: int
    new_tokens: int
    batch: int  # answers written at once
    plain_tokens: int  # per answer in the plain loop
    pairs: int
    words: int  # per judged answer


@dataclass(frozen=True)
class Bench:
    """What every part works with: sizes, the preset's parameters, and the folder of the models."""

    size: Size
    params: dict[str, Any]
    work: Path

    @property
    def dtype(self) -> str:
        return self.params["dtype"]

    def text(self, start: int, words: int) -> str:
        """So many words of the embedded textbook, from its sentence number `start` on."""
        sentences = _textbook()
        rotated = cycle(sentences[start:] + sentences[:start])
        return " ".join(" ".join(islice(rotated, words)).split()[:words])

    def questions(self, count: int) -> list[str]:
        """So many different questions of the embedded corpus."""
        return [topic.question(0) for topic in islice(_topics(), count)]

    def examples(self, count: int) -> list[records.Example]:
        """So many SFT rows of full length."""
        return [
            records.Example(f"{number:03}", "open", question, self.text(number, self.size.length))
            for number, question in enumerate(self.questions(count))
        ]

    def pairs(self, count: int) -> list[records.Pair]:
        """So many preference pairs of two answers of full length."""
        rows = []
        for number, question in enumerate(self.questions(count)):
            chosen, rejected = (self.text(number + shift, self.size.length) for shift in (0, 7))
            rows.append(records.Pair(f"{number:03}", question, chosen, rejected, 1.0, 0.0))
        return rows

    def cases(self, count: int) -> list[judge.Case]:
        """So many questions for the judge, each twice: with a reference and with one of two candidates."""
        words = self.size.words
        return [
            judge.Case(
                f"{number}#{shift}", question, self.text(number, words), self.text(number + shift, words)
            )
            for number, question in enumerate(self.questions(count))
            for shift in (1, 2)
        ]


@cache  # parsing the corpus takes a fifth of a second, and hundreds of texts are cut from it
def _topics() -> list[embedded.Topic]:
    return embedded.topics(checkpoints.CORPUS)


@cache
def _textbook() -> list[str]:
    return embedded.textbook(_topics())


# With an ending of 1 no end token comes by chance: every answer has all its tokens.
REAL = Size(
    base=replace(checkpoints.BASE, ending=1.0),
    judge=replace(checkpoints.JUDGE, ending=1.0),
    product=8192,
    length=1024,
    few=8,
    many=136,
    questions=256,
    new_tokens=512,
    batch=512,
    plain_tokens=128,
    pairs=128,
    words=250,
)
_TINY = checkpoints.Shape(layers=2, width=128, heads=2, kv_heads=2, mlp=384, vocabulary=1024, ending=1.0)
SMALL = Size(
    base=_TINY,
    judge=_TINY,
    product=256,
    length=64,
    few=0,
    many=8,
    questions=4,
    new_tokens=8,
    batch=8,
    plain_tokens=4,
    pairs=2,
    words=10,
)
