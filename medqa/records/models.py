"""What a judge trained from scratch says of examples that it never saw; the stage `models` writes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ValidationExample:
    """A validation example of a judge trained from scratch."""

    id: str
    text: str
    expected: tuple[str, ...]  # the right label per criterion
    predicted: tuple[str, ...]  # the label that the judge finds likeliest, per criterion
