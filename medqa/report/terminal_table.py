"""The end of a run in the terminal: a table of the models, the verdict, and what to do next."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medqa.compare import TRAINED
from medqa.report import labels

WIDTH = 100  # columns
MEASURES = {
    "score": "score (judge)",
    "key_point_recall": "key-point recall",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
}
QUESTION = "What are the symptoms of asthma?"
NONE = "-"


def render(metrics: Mapping[str, Mapping[str, Any]], page: Path) -> str:
    """The lines at the end of a run, at most WIDTH columns wide.

    `metrics` maps `evaluate/MODEL` and `compare` to what these files hold, as the page reads them. A model
    that is not there, or that answered no question, has no line.
    """
    rows = [
        (name, metrics[f"evaluate/{name}"])
        for name in TRAINED
        if metrics.get(f"evaluate/{name}", {}).get("questions")
    ]
    compared = metrics["compare"]
    open_count = compared["dpo_over_sft"]["paired"]
    heading = f"Means from 0 to 1 over {open_count:,} open held-out questions, with 95% intervals"
    lines = [heading, *_table(rows), "", *_wrapped("verdict", _verdict(compared))]
    if group := compared.get("worst_group"):
        lines += _wrapped(
            "worst group", f"{group['name']} {_gain(group, 'score_gain')} in score over the base"
        )
    lines += [f"{'report':12} open {page}", f'{"try":12} medqa ask "{QUESTION}"']
    return "\n".join(lines)


def _table(rows: list[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    yield f"{'':6}" + "".join(f"{title:>23}" for title in MEASURES.values())
    for name, result in rows:
        yield f"{labels.MODELS[name].name:6}" + "".join(f"{_mean(result, key):>23}" for key in MEASURES)


def _mean(result: Mapping[str, Any], key: str) -> str:
    if result.get(key) is None:
        return NONE
    if f"{key}_low" not in result:
        return f"{result[key]:.3f}"
    return f"{result[key]:.3f} ({result[f'{key}_low']:.3f}-{result[f'{key}_high']:.3f})"


def _gain(result: Mapping[str, Any], key: str) -> str:
    low, high = result[f"{key}_low"], result[f"{key}_high"]
    return f"{result[key]:+.3f} ({low:+.3f} to {high:+.3f})"


def _verdict(compared: Mapping[str, Any]) -> str:
    reason = compared["reason"].partition(";")[0]
    return f"{compared['verdict'].upper()}: {reason}"


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{title:12} ", subsequent_indent=" " * 13)
