"""What became of the source rows; the stage `data` writes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RowAudit:
    """What became of a source row: one record per output that the row could have gone to."""

    id: str  # output:source:file:line
    output: str  # sft, questions, held_out or labelled
    row: str  # the row's id in its source; of a kept row, its id in the output
    kind: str  # one of KINDS; empty where the row could not be read
    label_type: str  # empty for SFT rows, and where the row could not be read
    outcome: str  # kept, quarantined, other_kind, contaminated, near_duplicate, duplicate or over_limit
    reason: (
        str  # of a quarantined row why, of a copy the location of the original, of a kept row what it lost
    )


@dataclass(frozen=True)
class Quarantined:
    """A source row that could not be used, and why."""

    id: str
    file: str
    line: int  # from 1; in a JSON array, the number of the row
    reason: str
    text: str  # the beginning of the row


@dataclass(frozen=True)
class Provenance:
    """Where the rows of the SFT set or the preference set came from."""

    id: str  # sft or preference
    source: str  # embedded, hub or files
    name: str  # the repository, or the files
    commit: str  # of the repository; empty where there is none
