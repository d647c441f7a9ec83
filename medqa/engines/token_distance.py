"""How far lists of next tokens are apart: differences of the log-probabilities of the same texts."""

from collections.abc import Sequence

from medqa.engines.base import NextTokens


def differences(rows: Sequence[NextTokens], reference: Sequence[NextTokens]) -> list[float]:
    """How far each token's log-probability is from the reference's, in nats, over all prompts.

    A token that the reference does not list is below the last one that it lists, by nobody knows how much.
    """
    result = []
    for row, expected in zip(rows, reference, strict=True):
        known, last = by_text(expected), min(expected.logprobs)
        for text, logprob in by_text(row).items():
            result.append(abs(logprob - known[text]) if text in known else max(0.0, logprob - last))
    return result


def by_text(tokens: NextTokens) -> dict[str, float]:
    """The log-probability of each text: the highest, where tokens differ in a space that servers may drop."""
    result: dict[str, float] = {}
    for token, logprob in zip(tokens.texts, tokens.logprobs, strict=True):
        text = token.strip()
        # Servers write parts of a character in different ways.
        if text and "\ufffd" not in text and not text.startswith("bytes:"):
            result[text] = max(result.get(text, logprob), logprob)
    return result
