"""Whether a server has the base and the adapter of the run: its log-probabilities beside this process's own.

The server lists the likeliest first tokens of an answer to each of a few prompts, twice. Their
log-probabilities have to be those of the model in this process, up to noise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from medqa.engines.base import Failure, NextTokens, Request
from medqa.engines.cached import CachedEngine
from medqa.engines.http_engine import HttpEngine
from medqa.engines.token_distance import by_text, differences
from medqa.prompts import ask
from medqa.runtime.environment import out_of_memory
from medqa.runtime.errors import UserError

# Fixed ones: the row cache then holds the reference for every later stage of the same model.
QUESTIONS = (
    "What are the symptoms of iron deficiency anemia?",
    "How is type 2 diabetes treated?",
    "What causes gout?",
    "Which tests confirm asthma?",
    "Is high blood pressure dangerous in pregnancy?",
    "How can a stroke be prevented?",
    "A child has a fever and a rash. What should be done?",
    "Why does kidney failure cause fatigue?",
)
REQUESTS = [Request(f"probe {number}", ask(text)) for number, text in enumerate(QUESTIONS, 1)]
# Means over the 20 likeliest tokens of all prompts, in nats, on a CPU against float32: SmolLM2-135M-Instruct
# 0.067 in bfloat16, 0.071 with weights of 8 bits, 0.36 with 6 and 1.2 with 4; the embedded run's models 0.013
# to 0.020 in bfloat16, 0.002 in float16.
TOLERANCE = 0.2
# An adapter beside weights in 16 bits has the noise of its base, 0.7 to 1.3 times in the same models, so that
# the measured noise of the base bounds it. DPO's adapter in place of SFT's has 3.2 times that noise.
RATIO = 2.0
LEAST = 0.01  # of what is more than noise: a server in float32 has hardly any
FEWEST = 5  # readable tokens per prompt
ELSE = "or set compute.engine to transformers"


@dataclass(frozen=True)
class Subject:
    """A served model, by its name on the server: base or adapter, its folder, and what makes its engines."""

    name: str
    folder: Path
    connect: Callable[[], HttpEngine]
    local: Callable[[], CachedEngine]


@dataclass(frozen=True)
class Answers:
    """Next tokens after each prompt: from a server, from the server again, and from this process."""

    subject: Subject
    first: list[NextTokens]
    second: list[NextTokens]
    reference: list[NextTokens]

    @property
    def repeated(self) -> float:
        """The distance of the server from itself."""
        return fmean(differences(self.first, self.second))

    @property
    def error(self) -> float:
        """The distance of the server from this process."""
        return fmean(self._errors())

    @property
    def largest_error(self) -> float:
        """The largest difference of one token's log-probability."""
        return max(self._errors())

    def _errors(self) -> list[float]:
        return differences([*self.first, *self.second], self.reference * 2)


class Unchecked(Exception):
    """Why a server could not be compared."""


def check(address: str, subjects: Sequence[Subject], settings: dict[str, Any]) -> str:
    """The line about a server whose base, and whose adapter if there is one, equal those of this process.

    It says so where they could not be compared: a server without log-probabilities, no room for the model.
    `settings` are for the chat template. Raises UserError for a server with another base or adapter, without
    an effect of the adapter, or with two answers to one prompt.
    """
    try:
        served = [_ask(subject) for subject in subjects]
        requests = [row for row in REQUESTS if all(row.id in answers for answers in served)]
        if not requests:
            raise Unchecked(f"fewer than {FEWEST} readable tokens are listed per prompt")
        answers = [
            _answers(subject, listed, requests, settings)
            for subject, listed in zip(subjects, served, strict=True)
        ]
    except Unchecked as reason:
        names = " and ".join(subject.name for subject in subjects)
        return f"whether {names} answers as the model in this process could not be checked: {reason}"
    if fault := next(faults(*answers), None):
        raise UserError(f"{address} {fault}")
    return _summary(answers)


def faults(base: Answers, adapter: Answers | None = None) -> Iterator[str]:
    """What is wrong with a server, as the rest of sentences that begin with its address; the worst first."""
    name, folder = base.subject.name, base.subject.folder
    if base.repeated > TOLERANCE:
        yield _two_answers(name, base.repeated, TOLERANCE)
    elif base.error > TOLERANCE:
        yield (
            f"serves another base than {folder}: log-probabilities of {name} are {base.error:.3f} nats from "
            f"those in this process, and 16 bits explain {TOLERANCE:g}; serve the weights of {folder} at its "
            f"revision, in 16 bits or as they are, with their own chat template, {ELSE}"
        )
    if adapter is None:
        return
    limit, name, folder = _limit(base), adapter.subject.name, adapter.subject.folder
    change, applied = distance_from_base(base, adapter)
    if adapter.repeated > limit:
        yield _two_answers(name, adapter.repeated, limit)
    elif change > LEAST and applied < change / 2:
        yield (
            f"ignores the adapter {name}: its log-probabilities are {applied:.3f} nats from the base's, "
            f"and {folder} makes a difference of {change:.3f}; take a version of the server that applies "
            f"adapters to this base, {ELSE}"
        )
    elif adapter.error > limit:
        yield (
            f"applies another adapter than {folder}: log-probabilities of {name} are {adapter.error:.3f} "
            f"nats from those in this process, where noise explains {limit:.3f}; load {folder} under this "
            f"name again, on every server behind a router, {ELSE}"
        )


def distance_from_base(base: Answers, adapter: Answers) -> tuple[float, float]:
    """How far an adapter's log-probabilities are from the base's: in this process, and on the server."""
    # As many tokens as the server lists: whatever is not listed counts alike on both sides.
    counts = [len(tokens.texts) for tokens in base.first]
    pair = (
        [NextTokens(row.texts[:count], row.logprobs[:count]) for row, count in zip(rows, counts, strict=True)]
        for rows in (adapter.reference, base.reference)
    )
    return fmean(differences(*pair)), fmean(differences(adapter.first, base.first))


def _limit(base: Answers) -> float:
    return max(LEAST, RATIO * max(base.error, base.repeated))


def _two_answers(name: str, distance: float, limit: float) -> str:
    return (
        f"answers the same prompt differently each time: log-probabilities of {name} are {distance:.3f} nats "
        f"apart, where noise explains {limit:.3f}; start every server behind a router with the same base and "
        f"adapter, {ELSE}"
    )


def _ask(subject: Subject) -> dict[str, list[NextTokens]]:
    """Both answers to each probe that has them. Raises Unchecked if none has."""
    rows = [replace(request, id=f"{request.id}{again}") for again in ("", ", again") for request in REQUESTS]
    with closing(subject.connect()) as engine:
        results = dict(engine.next_tokens(rows))
    failures = [result for result in results.values() if isinstance(result, Failure)]
    if len(failures) == len(results):
        raise Unchecked(failures[0].reason)
    both = {row.id: [results[row.id], results[f"{row.id}, again"]] for row in REQUESTS}
    return {
        id: pair
        for id, pair in both.items()
        if all(isinstance(tokens, NextTokens) and len(by_text(tokens)) >= FEWEST for tokens in pair)
    }


def _answers(
    subject: Subject,
    served: dict[str, list[NextTokens]],
    requests: Sequence[Request],
    settings: dict[str, Any],
) -> Answers:
    """The answers of a server with their reference. Raises Unchecked if this process cannot answer."""
    try:
        with subject.local() as engine:
            local = dict(engine.next_tokens(requests, settings))
    except UserError as error:
        raise Unchecked(str(error)) from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise Unchecked(f"{subject.folder} does not fit into memory here ({error})") from None
    for result in local.values():
        if isinstance(result, Failure):
            raise Unchecked(result.reason)
    ids = [request.id for request in requests]
    first, second = ([served[id][number] for id in ids] for number in (0, 1))
    return Answers(subject, first, second, [local[id] for id in ids])


def _summary(answers: Sequence[Answers]) -> str:
    base, *adapters = answers
    parts = [f"{each.subject.name} {each.error:.3f} (one token {each.largest_error:.3f})" for each in answers]
    line = (
        f"log-probabilities after {len(base.first)} prompts beside the model in this process, in nats: "
        f"{', '.join(parts)} apart"
    )
    for adapter in adapters:
        change, _ = distance_from_base(base, adapter)
        line += f"; noise explains {_limit(base):.3f}, the adapter changes {change:.3f}"
        line += ", too little to see whether it is applied" if change <= _limit(base) else ""
    return line
