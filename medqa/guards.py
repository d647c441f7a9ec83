"""The guards of the verdict: what DPO may lose, whatever it gains, measured on paired answers."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from statistics import fmean

from medqa.answer_measures import is_answered, is_cut_off, is_exam, is_open
from medqa.columns import collect, present
from medqa.records import Answer
from medqa.runtime.sections import Guards
from medqa.spool import Spool
from medqa.text import words

PHRASE_WORDS = 4
BUCKETS = 16  # per answer, in which phrases are counted before the frequent ones are counted each
TAUGHT_BY_SFT = ("length_ratio", "phrase_rise")  # SFT is meant to change them, so that only it is a measure

Pair = tuple[Answer, Answer]  # the later and the earlier model's answer to a question
Change = Callable[[Answer, Answer], float | None]


def _among(counts_in: Callable[[Answer], bool], change: Change) -> Callable[[Pair], float | None]:
    return lambda pair: change(*pair) if all(map(counts_in, pair)) else None


def _chosen_logprob_drop(new: Answer, old: Answer) -> float | None:
    if None in (new.chosen_logprob, old.chosen_logprob):
        return None
    return (old.chosen_logprob - new.chosen_logprob) / new.chosen_tokens


CHANGES: dict[str, Callable[[Pair], float | None]] = {  # of a question, of which the means are limited
    "repetition_rise": _among(is_answered, lambda new, old: new.repetition - old.repetition),
    "cut_off_rise": _among(is_answered, lambda new, old: is_cut_off(new) - is_cut_off(old)),
    "unscored_rise": _among(is_open, lambda new, old: (new.score is None) - (old.score is None)),
    "chosen_logprob_drop": _among(is_open, _chosen_logprob_drop),
    "exam_unreadable_rise": _among(is_exam, lambda new, old: (not new.choice) - (not old.choice)),
    "exam_accuracy_drop": _among(is_exam, lambda new, old: bool(old.correct) - bool(new.correct)),
}
TOKENS: dict[str, Callable[[Pair], float | None]] = {
    "after": _among(is_answered, lambda new, _: new.tokens),
    "before": _among(is_answered, lambda _, old: old.tokens),
}


def regressions(after: Iterable[Answer], before: Iterable[Answer]) -> dict[str, float]:
    """The values that the guards limit, in the order of Guards. A mean over no answer is left out.

    On open questions: the rises in repetition, in the share of the phrase that rises most, in the share cut
    off and in the share without a score, the ratio of mean lengths in tokens, and the mean drop of the chosen
    answer's log-probability in nats per token. On multiple choice: the rise in the share unreadable, the drop
    in accuracy. Questions that one of the models failed to answer count in the share without a score alone.
    The answers are read twice; their numbers are in memory, and their texts are not.
    """
    columns = collect(zip(after, before, strict=True), CHANGES | TOKENS)
    values = {name: fmean(changes) for name in CHANGES if len(changes := present(columns[name]))}
    tokens = {name: present(columns[name]).sum() for name in TOKENS}
    open_pairs = (pair for pair in zip(after, before, strict=True) if all(map(is_answered, pair)))
    if texts := Spool((new.text, old.text) for new, old in open_pairs):
        values["phrase_rise"] = phrase_rise(texts)
        values["length_ratio"] = float(tokens["after"] / max(1, tokens["before"]))
    limits = (name.removeprefix("max_") for name in Guards.model_fields)
    return {name: values[name] for name in limits if name in values}


def phrase_rise(texts: Collection[tuple[str, str]]) -> float:
    """The largest rise, over all phrases of four words, of the share of answers that hold the phrase.

    `texts` are the later and the earlier answer to each question, at least one. An answer of fewer words is a
    phrase as a whole. Stock phrases, refusals and answers that no longer depend on the question all raise it.
    """
    # Only phrases of full buckets are counted: a phrase is in no more answers than the phrases of its bucket
    # together, and rises by no more. All phrases of a million answers would take 20 GB.
    full = array("i", bytes(4 * BUCKETS * len(texts)))
    for after, _ in texts:
        for phrase in _phrases(after):
            full[hash(phrase) % len(full)] += 1
    rise = _largest_rise(texts, full, max(full) // 2)
    # A phrase that rises by more is in a fuller bucket.
    return max(rise, _largest_rise(texts, full, rise + 1)) / len(texts)


def _largest_rise(texts: Iterable[tuple[str, str]], full: Sequence[int], least: int) -> int:
    """By how many answers the phrases of the buckets with `least` phrases or more rise at most; 0 if none."""
    rises = Counter[tuple[str, ...]]()
    for pair in texts:
        for answer, sign in zip(pair, (1, -1), strict=True):
            for phrase in _phrases(answer):
                if full[hash(phrase) % len(full)] >= least:
                    rises[phrase] += sign
    return max([0, *rises.values()])


def _phrases(answer: str) -> set[tuple[str, ...]]:
    parts = words(answer)
    return {*zip(*(parts[start:] for start in range(PHRASE_WORDS)), strict=False)} or {tuple(parts)}


def failed_guards(changes: dict[str, float], guards: Guards) -> list[str]:
    """The names of the guards whose limit is exceeded. The length ratio is limited in both directions."""
    limits = guards.model_dump()
    values = dict(changes)
    if (ratio := values.get("length_ratio")) is not None:
        # Answers without any token are the extreme case of shrinking.
        values["length_ratio"] = max(ratio, 1 / ratio if ratio else math.inf)
    return [name for name, value in values.items() if round(value, 6) > limits[f"max_{name}"]]
