"""The groups of a row, by which results are measured apart: attribute, kind, label type, length, source."""

import re

from medqa.sources.ultramedical import ParsedRow
from medqa.text import per_word, words

SHORT, MEDIUM = 30, 80  # words of a reference, at most; a longer one is long
# UltraMedical's ids begin with the source of the question and a comma, as in `MedQA,1592`.
_SOURCE = re.compile(r"\s*([^\W\d][^,]*),")


def row_groups(row: ParsedRow, reference: str) -> tuple[str, ...]:
    """The groups of a preference row as `name: value`, such as `source: MedQA`, sorted by name.

    Where the row says nothing of a name, or the reference is empty, the group is left out.
    """
    source = _SOURCE.match(row.id)
    values = {
        "attribute": row.attribute,
        "kind": row.kind,
        "label type": row.label_type,
        "length": _length(reference),
        "source": source[1].strip() if source else "",
    }
    return tuple(f"{name}: {value}" for name, value in values.items() if value)


def _length(reference: str) -> str:
    """Whether a reference is short, medium or long; '' without words. Two Han characters make a word."""
    length = sum(1 / per_word(word) for word in words(reference))
    return "" if not length else "short" if length <= SHORT else "medium" if length <= MEDIUM else "long"
