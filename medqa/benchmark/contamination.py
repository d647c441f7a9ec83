"""Contamination: benchmark questions that training prompts repeat, by the rules of decontamination."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from medqa.data.decontamination import Decontamination
from medqa.sources.options import prompt_key

# Ids and prompts of training rows; called anew for each pass, so that they need not be in memory.
TrainingPrompts = Callable[[], Iterable[tuple[str, str]]]


def repeating_rows(
    prompts: Mapping[str, Sequence[str]], training: TrainingPrompts, threshold: float | None
) -> dict[str, str]:
    """The training row that repeats a benchmark question, equal or nearly so, for each that has one, by id.

    `prompts` are by id the texts of a question that a training prompt may repeat. `threshold` is
    `data.near_duplicate`; None counts equal prompts only.
    """
    keys = {id: [prompt_key(text) for text in texts] for id, texts in prompts.items()}
    index = Decontamination(threshold)
    benchmark_keys = set(chain.from_iterable(keys.values()))
    for key in chain(benchmark_keys, (prompt_key(text) for _, text in training())):
        index.count_words(key)
    for key in sorted(benchmark_keys):
        index.add_held_out(key)
    # First the few training rows that repeat any question, then all questions that these repeat: a row names
    # one question only, the most similar one.
    repeated: dict[str, str] = {}
    suspects: dict[str, str] = {}
    for id, text in training():
        key = prompt_key(text)
        if match := key if key in benchmark_keys else index.match(key):
            repeated.setdefault(match, id)
            suspects.setdefault(key, id)
    second = Decontamination(threshold, index.counts)
    for key in suspects:
        second.add_held_out(key)
    for key in benchmark_keys - repeated.keys():
        if match := second.match(key):
            repeated[key] = suspects[match]
    return {
        id: next(repeated[key] for key in each if key in repeated)
        for id, each in keys.items()
        if not repeated.keys().isdisjoint(each)
    }
