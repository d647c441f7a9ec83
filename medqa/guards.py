"""The guards of the verdict: what DPO may lose, whatever it gains, measured on paired answers."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from medqa.records import Answer
from medqa.runtime.sections import Guards
from medqa.text import words

PHRASE_WORDS = 4
BUCKETS = 16  # per answer, in which phrases are counted before the frequent ones are counted each
TAUGHT_BY_SFT = ("length_ratio", "phrase_rise")  # SFT is meant to change them, so that only it is a measure

AnswerPairs = Sequence[tuple[Answer, Answer]]  # the later and the earlier model's


def regressions(after: Sequence[Answer], before: Sequence[Answer]) -> dict[str, float]:
    """The values that the guards limit. A mean over no answer is left out.

    On open questions: the rises in repetition, in the share of the phrase that rises most, in the share cut
    off and in the share without a score, the ratio of mean lengths in tokens, and the mean drop of the chosen
    answer's log-probability in nats per token. On multiple choice: the rise in the share unreadable, the drop
    in accuracy. Questions that one of the models failed to answer count in the share without a score alone.
    """
    pairs = list(zip(after, before, strict=True))
    answered = [pair for pair in pairs if "failed" not in (pair[0].finish_reason, pair[1].finish_reason)]
    return (
        _losses_of_texts([pair for pair in answered if pair[0].correct is None])
        | _losses_without_texts([pair for pair in pairs if pair[0].correct is None])
        | _losses_in_exams([pair for pair in answered if pair[0].correct is not None])
    )


def _losses_of_texts(pairs: AnswerPairs) -> dict[str, float]:
    if not pairs:
        return {}
    tokens = [sum(row.tokens for row in rows) for rows in zip(*pairs, strict=True)]
    return {
        "repetition_rise": fmean(new.repetition - old.repetition for new, old in pairs),
        "phrase_rise": phrase_rise(*([row.text for row in rows] for rows in zip(*pairs, strict=True))),
        "length_ratio": tokens[0] / max(1, tokens[1]),
        "cut_off_rise": fmean(
            (new.finish_reason == "length") - (old.finish_reason == "length") for new, old in pairs
        ),
    }


def _losses_without_texts(pairs: AnswerPairs) -> dict[str, float]:
    if not pairs:
        return {}
    losses = {"unscored_rise": fmean((new.score is None) - (old.score is None) for new, old in pairs)}
    drops = [
        (old.chosen_logprob - new.chosen_logprob) / new.chosen_tokens
        for new, old in pairs
        if None not in (new.chosen_logprob, old.chosen_logprob)
    ]
    return losses | ({"chosen_logprob_drop": fmean(drops)} if drops else {})


def _losses_in_exams(pairs: AnswerPairs) -> dict[str, float]:
    if not pairs:
        return {}
    return {
        "exam_unreadable_rise": fmean((not new.choice) - (not old.choice) for new, old in pairs),
        "exam_accuracy_drop": fmean(bool(old.correct) - bool(new.correct) for new, old in pairs),
    }


def phrase_rise(after: Sequence[str], before: Sequence[str]) -> float:
    """The largest rise, over all phrases of four words, of the share of answers that hold the phrase.

    An answer of fewer words is a phrase as a whole. Stock phrases, refusals and answers that no longer depend
    on the question all raise it. Both sequences have a text per question, at least one.
    """
    # Only phrases of full buckets are counted: a phrase is in no more answers than the phrases of its bucket
    # together, and rises by no more. All phrases of a million answers would take 20 GB.
    full = array("i", bytes(4 * BUCKETS * len(after)))
    for answer in after:
        for phrase in _phrases(answer):
            full[hash(phrase) % len(full)] += 1
    rise = _largest_rise(after, before, full, max(full) // 2)
    # A phrase that rises by more is in a fuller bucket.
    return max(rise, _largest_rise(after, before, full, rise + 1)) / len(after)


def _largest_rise(after: Sequence[str], before: Sequence[str], full: Sequence[int], least: int) -> int:
    """By how many answers the phrases of the buckets with `least` phrases or more rise at most; 0 if none."""
    rises = Counter[tuple[str, ...]]()
    for texts, sign in ((after, 1), (before, -1)):
        for answer in texts:
            for phrase in _phrases(answer):
                if full[hash(phrase) % len(full)] >= least:
                    rises[phrase] += sign
    return max([0, *rises.values()])


def _phrases(answer: str) -> set[tuple[str, ...]]:
    parts = words(answer)
    return {tuple(parts[n : n + PHRASE_WORDS]) for n in range(max(1, len(parts) - PHRASE_WORDS + 1))}


def failed_guards(changes: dict[str, float], guards: Guards) -> list[str]:
    """The names of the guards whose limit is exceeded. The length ratio is limited in both directions."""
    limits = guards.model_dump()
    values = dict(changes)
    if (ratio := values.get("length_ratio")) is not None:
        # Answers without any token are the extreme case of shrinking.
        values["length_ratio"] = max(ratio, 1 / ratio if ratio else math.inf)
    return [name for name, value in values.items() if round(value, 6) > limits[f"max_{name}"]]
