"""Whether the judge, or a simpler one, prefers the side of a labelled pair that is labelled better.

Each function gives 1 or 0, and 0.5 for a tie, which is the share that is right by chance.
"""

from medqa import metrics
from medqa.records import JudgedPair


def judge_wins(pair: JudgedPair) -> float:
    """By the judge's scores; the pair must have both."""
    return metrics.win(pair.chosen_score, pair.rejected_score)


def longer_wins(pair: JudgedPair) -> float:
    """By the number of words."""
    return metrics.win(pair.chosen_words, pair.rejected_words)


def likelier_wins(pair: JudgedPair) -> float:
    """By the log-probability under the base; a pair with a side that it could not read decides nothing."""
    logprobs = (pair.chosen_logprob, pair.rejected_logprob)
    return 0.5 if None in logprobs else metrics.win(*logprobs)


def more_similar_wins(pair: JudgedPair) -> float:
    """By the cosine with the question under the encoder."""
    return metrics.win(pair.chosen_similarity, pair.rejected_similarity)
